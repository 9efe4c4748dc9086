"""The files that a review page is put together from: HTML, style and scripts."""
