"""Names, folders and files -> models; one folder for each family."""
