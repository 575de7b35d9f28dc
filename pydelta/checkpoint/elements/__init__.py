"""Some elements of a tensor, by a mask: taken, put, and their places coded."""
