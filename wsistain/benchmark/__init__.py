"""The phantom benchmark: data made from seeds and checked, scores of anybody's pictures, and a table of who is where."""
