"""The loss of an optimizer step, one objective for each kind of strategy."""
