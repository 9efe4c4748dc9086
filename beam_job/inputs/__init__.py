"""What `--input` names, as rows of URIs: folders, globs, lists, tars, and the filters that choose among them.

The options of captioners that are records of their own, prompts and the endpoint, are here too.
"""
