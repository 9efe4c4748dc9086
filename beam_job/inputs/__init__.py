"""Reads what `--input` names into rows of URIs: folders, globs, lists, tars; and filters them.

Two records of captioner options, prompts and the endpoint, are here too.
"""
