"""The promises of a write, and the error of one that is not kept."""


class Broken(AssertionError):  # noqa: N818
    """A promise that is not kept."""


def require(is_true: object, words: object) -> None:
    if not is_true:
        raise Broken(words)
