"""Files that appear whole, and the forms in which rows and images are kept."""
