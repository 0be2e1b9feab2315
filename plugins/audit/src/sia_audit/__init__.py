"""``sia audit``: whether a task is worth spending on, before anything is spent."""
