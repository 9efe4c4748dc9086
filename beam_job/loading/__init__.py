"""From a URI to pixels: fetching, decoding, and the child processes that keep a bad image from harming the rest."""
