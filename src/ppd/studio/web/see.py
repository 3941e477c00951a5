"""What the model understood, and what it draws: mine beside the base's, and the way to somebody else."""

import io
import zipfile
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from ppd.studio import drawings, showings
from ppd.studio.studio import Refused
from ppd.studio.taste import Taste, choices_of, chosen, stored_taste
from ppd.studio.visitors import Visitor, share
from ppd.studio.web.desk import Desk
from ppd.studio.web.pages import Wrong, go, id_in_path, is_partial, words

Form = Mapping[str, str]


def see(desk: Desk, request: Request) -> Response:
    """The visitor's pictures, or the way to them."""
    visitor = desk.known(request)
    n_missing = desk.studio.limits.enough_choices - len(_told(desk, visitor))
    if n_missing > 0:
        return go(request, "/choose")
    return see_page(desk, request, visitor)


def see_page(desk: Desk, request: Request, visitor: Visitor, said: str = "") -> Response:
    """The whole page; the first pictures are asked for when it is opened."""
    studio, told = desk.studio, _told(desk, visitor)
    try:
        studio.first_look(visitor)
    except Refused as refused:
        said = str(refused)
    return desk.page(
        request,
        "see.html",
        url="/see",
        visitor=visitor,
        told=told,
        last=told[-1].vote if told else None,
        taste=_taste(desk, visitor),
        beside=_looks(desk, visitor, "beside"),
        between=_looks(desk, visitor, "between"),
        strangers=studio.strangers(visitor),
        captions=studio.captions.pool,
        limits=studio.limits,
        max_strength=drawings.MAX_STRENGTH,
        may_choose_more=len(told) < studio.limits.max_choices,
        said=said,
    )


def drawing(desk: Desk, request: Request) -> Response:
    """One drawing as it is now: the page asks again until it is done."""
    visitor = desk.known(request)
    found = drawings.drawing(desk.studio.database, visitor.id, id_in_path(request))
    if found is None:
        raise Wrong(404, "There is no such drawing of yours.")
    return desk.page(request, "drawing.html", visitor=visitor, look=_look(desk, found))


def profile(desk: Desk, request: Request) -> Response:
    """What the model wrote, once it has."""
    visitor = desk.known(request)
    return desk.page(request, "profile.html", visitor=visitor, taste=_taste(desk, visitor))


def draw(desk: Desk, request: Request, form: Form) -> Response:
    """Draw a caption of the visitor's own."""
    visitor = desk.known(request)
    caption = words(form, "caption", desk.studio.limits.caption_chars, "a caption")
    desk.studio.draw(visitor, caption, _strength(form))
    return _back(desk, request, visitor, f"“{caption}” is being drawn.")


def between(desk: Desk, request: Request, form: Form) -> Response:
    """Draw the way to somebody else."""
    visitor = desk.known(request)
    caption = words(form, "caption", desk.studio.limits.caption_chars, "a caption")
    desk.studio.between(visitor, caption, form.get("other", ""))
    return _back(desk, request, visitor, "The way is being drawn.")


def sharing(desk: Desk, request: Request, form: Form) -> Response:
    """Let others mix with this taste, or no longer."""
    visitor = desk.known(request)
    name = None
    if form.get("share") == "yes":
        name = words(form, "name", desk.studio.limits.name_chars, "a name")
    if not share(desk.studio.database, visitor, name):
        raise Wrong(422, "Somebody here has that name already; please take another.")
    said = f"Others may now mix with your taste, as “{name}”." if name else "Nobody else may mix with your taste."
    return _back(desk, request, desk.known(request), said)


def download(desk: Desk, request: Request) -> Response:
    """All pictures that were drawn for the visitor to see, in one archive."""
    visitor = desk.known(request)
    rows = desk.studio.database.all(
        "SELECT p.caption, p.seed, p.model, p.image FROM pictures p JOIN drawings d ON d.id = p.drawing"
        " WHERE p.visitor = ? AND d.kind != 'comparisons' ORDER BY d.id, p.place",
        visitor.id,
    )
    whose = {"ppd": "for-me", "base": "for-anyone", "between": "between"}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for at, row in enumerate(rows):
            name = "".join(c if c.isalnum() else "-" for c in row["caption"])[:60]
            archive.writestr(f"{at:03d}-{name}-{whose[row['model']]}-{row['seed']}.png", row["image"])
    disposition = {"Content-Disposition": 'attachment; filename="my-pictures.zip"'}
    return Response(buffer.getvalue(), media_type="application/zip", headers=disposition)


def _told(desk: Desk, visitor: Visitor) -> list[showings.Answer]:
    return chosen(showings.answers(desk.studio.database, visitor.id, "choice"))


def _taste(desk: Desk, visitor: Visitor) -> Taste | None:
    """What was made of the choices as they are now."""
    taste = stored_taste(desk.studio.database, visitor.id)
    choices, _ = choices_of(desk.studio.database, desk.studio.models, visitor.id)
    return taste if taste is not None and taste.choices == choices else None


def _looks(desk: Desk, visitor: Visitor, kind: str) -> list[dict[str, object]]:
    return [_look(desk, one) for one in drawings.drawings(desk.studio.database, visitor.id, kind)]


def _look(desk: Desk, drawing: drawings.Drawing) -> dict[str, object]:
    found = drawings.pictures(desk.studio.database, drawing.id)
    rows = {model: [picture for picture in found if picture.model == model] for model in ("ppd", "base", "between")}
    return {"drawing": drawing, "rows": rows, "place": desk.studio.waiting(drawing)}


def _back(desk: Desk, request: Request, visitor: Visitor, said: str) -> Response:
    return see_page(desk, request, visitor, said=said) if is_partial(request) else go(request, "/see")


def _strength(form: Form) -> float:
    try:
        strength = float(form.get("strength", "1"))
    except ValueError:
        strength = -1.0
    if not 0 <= strength <= drawings.MAX_STRENGTH:
        raise Wrong(422, f"The strength goes from 0 to {drawings.MAX_STRENGTH:g}.")
    return strength
