"""What the script is made of. Imported once: "Reload UI" runs scripts/ again but keeps these modules."""
