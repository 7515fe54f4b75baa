"""Loading of models by name, folder or file, with a folder for each family."""
