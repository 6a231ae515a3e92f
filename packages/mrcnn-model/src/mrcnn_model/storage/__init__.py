"""Files of models: cards, files and folders that are written completely or not at all, what can be read."""
