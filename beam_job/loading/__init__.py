"""From a URI to pixels: fetching, decoding, and the processes that keep a bad image from harming the rest."""
