"""Initial articles of titles, which sorting skips."""

_ARTICLES = {
    "eng": ("The ", "A ", "An "),
    "fre": ("Les ", "Le ", "La ", "L'", "L’", "Une ", "Un "),
    "ger": ("Der ", "Die ", "Das ", "Eine ", "Ein "),
    "ita": ("Gli ", "Il ", "Lo ", "La ", "I ", "Le ", "L'", "L’", "Una ", "Uno ", "Un "),
    "por": ("Os ", "As ", "Uma ", "Um ", "O ", "A "),
    "spa": ("Los ", "Las ", "El ", "La ", "Una ", "Un "),
}


def article_length(title: str, language: str | None) -> int:
    """Return the length of the article, with the blank after it, with which a title begins; 0 without one.

    `language` is an ISO 639-2 code.
    """
    for article in _ARTICLES.get(language or "", ()):
        if title.startswith(article):
            return len(article)
    return 0
