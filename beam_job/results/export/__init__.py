"""`export`: captions, and the images they belong to, in the forms that other tools read; a module for each form."""
