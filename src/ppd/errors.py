"""Errors that a user can act on."""


class InputError(Exception):
    """Input or usage that a person has to correct; the CLI prints it and exits with code 2.

    The message names where (file, row, column), what was found and what was expected.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: object | None = None,
        row: int | None = None,
        column: str | None = None,
        fix: str | None = None,
    ) -> None:
        where = [str(file)] if file is not None else []
        where += [f"row {row}"] if row is not None else []
        where += [f"column {column!r}"] if column is not None else []
        message = f"{', '.join(where)}: {problem}" if where else problem
        super().__init__(f"{message}. {fix}" if fix else message)
        self.file, self.row, self.column = file, row, column


class DamagedFile(InputError):
    """A file that cannot be what was written: cut short, changed, or of another kind. Whoever can make it anew does."""

    def __init__(self, problem: object, file: object) -> None:
        words = " ".join(str(problem).split())
        super().__init__(
            f"damaged, or no file of this kind ({words})",
            file=file,
            fix="If the pipeline made it, delete it and run `dvc repro`; else fetch it again",
        )
