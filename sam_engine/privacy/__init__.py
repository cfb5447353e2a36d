"""Making parts of pictures unrecognisable: faces, or boxes of a table. Never done to sources."""
