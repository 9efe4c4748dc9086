"""What `--input` names, as rows of URIs: folders, globs, lists, tars, and the filters that choose among them."""
