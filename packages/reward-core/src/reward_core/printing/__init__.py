"""Text of others (names, prompts, reasons) in terminals, Markdown, HTML, charts and spreadsheets."""
