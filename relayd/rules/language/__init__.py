"""The rule language: text to words, words to statements, statements as values."""
