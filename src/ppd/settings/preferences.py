"""The log of choices: how it is read, cleaned and split (`ppd.preferences`)."""

from typing import Literal, Self

from pydantic import Field, model_validator

from ppd.settings.base import Component, Share

Word = str | int | float | bool


class ChoiceWords(Component):
    """Which values of the choice column mean what. Case, spaces around and the writing of a number (1, 1.0, +1) do not
    matter."""

    a: tuple[Word, ...] = ("a",)
    b: tuple[Word, ...] = ("b",)
    tie: tuple[Word, ...] = ("tie",)

    @model_validator(mode="after")
    def _each_word_once(self) -> Self:
        words = [word_of(word) for word in (*self.a, *self.b, *self.tie)]
        twice = sorted({word for word in words if words.count(word) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} means more than one thing")
        if not (self.a and self.b):
            raise ValueError("a and b need a word each")
        return self


def word_of(value: Word) -> str:
    """How a choice word is compared: `A `, `a` and 1, 1.0, "+1" are one."""
    text = str(value).strip().casefold()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else text


class ColumnSettings(Component):
    """What the columns of a folder's table are called, and what its choices say (`ppd.preferences.folder`)."""

    user: str = "user"
    caption: str = "caption"
    image_a: str = "image_a"
    image_b: str = "image_b"
    choice: str = "choice"
    choices: ChoiceWords = ChoiceWords()
    image_file: str = "{}"
    """The file of an image in the folder, the column's value put in for {}: `images/{}.png` for a column of ids."""
    image_a_id: str | None = None
    image_b_id: str | None = None
    """Columns that name the two images, as a log that has such names (Pick-a-Pic) splits by them; null: by content."""
    status: str | None = None
    """A column that says `submitted` where an answer counts (Argilla: a question's `.responses.status`)."""

    @model_validator(mode="after")
    def _a_column_each(self) -> Self:
        names = [self.user, self.caption, self.image_a, self.image_b, self.choice]
        if len(set(names)) < len(names):
            raise ValueError("user, caption, image_a, image_b and choice are five different columns")
        if self.image_file.count("{}") != 1:
            raise ValueError(f"image_file is {self.image_file!r}; expected one {{}} where the column's value goes")
        if (self.image_a_id is None) != (self.image_b_id is None):
            raise ValueError("image_a_id and image_b_id belong together")
        return self


class PreferenceSettings(Component):
    """Reading, cleaning and splitting the log of choices (`ppd.preferences`)."""

    source_format: Literal["pick-a-pic", "folder", "studio"] = "pick-a-pic"
    """pick-a-pic: parquet shards in the schema of Pick-a-Pic v2; folder: a table `choices.*` beside image files;
    studio: what visitors of `ppd studio` chose, after the shards of Pick-a-Pic beside it, if there are any."""
    columns: ColumnSettings = ColumnSettings()
    """Of a folder: what its columns are called."""
    seed: int = 0
    max_image_pixels: int = Field(50_000_000, ge=1)
    max_refused_share: Share = 0.05
    """Ingestion stops when more than this share of all rows is refused: then something is wrong with the log itself."""
    pairs_per_group: int = Field(4, ge=1)
    max_groups: int = Field(20, ge=1)
    """Support groups of a user at most."""
    support_share: Share = 0.5
    """Share of a seen user's training material that describes the user; the rest is trained on."""
    validation_user_share: Share = 0.1
    test_user_share: Share = 0.2
    eval_caption_share: Share = 0.25
    n_shards: int = Field(4, ge=1, le=64)
    """Users are embedded in this many shards by hash. Above 99 Dagster stops comparing versions of single shards."""

    @model_validator(mode="after")
    def _somebody_is_seen(self) -> Self:
        held_out = self.validation_user_share + self.test_user_share
        if held_out >= 1:
            raise ValueError(f"validation and test hold out {held_out:g} of all users; leave some to train on")
        return self
