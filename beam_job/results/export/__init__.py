"""`export`: captions, and their images, in formats that other tools read; one module for each format."""
