"""Output: untrusted text in terminals, Markdown, HTML and spreadsheets; logging."""
