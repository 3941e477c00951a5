"""What servers say in place of an answer: whose fault it is, and in which words the user hears of it."""

import json

import pytest

from ppd.vlm.complaint import complaint, one_line

SENT = ["max_completion_tokens", "temperature", "reasoning_effort"]


def said(message: str, **more: object) -> bytes:
    return json.dumps({"error": {"message": message} | more}).encode()


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (429, said("No credit left", code="insufficient_quota")),
        (429, said("You exceeded your current quota, see rate limits", type="insufficient_quota", code=None)),
        (429, said("Billing hard limit has been reached", code="billing_hard_limit_reached")),
        (402, said("Insufficient Balance")),
        (402, b""),
        (400, said("Your credit balance is too low to access the API", type="invalid_request_error")),
        (400, said("Budget has been exceeded! Current cost: 5", type="budget_exceeded")),
        (403, said("You have exceeded your monthly included credits")),
        (429, said("You exceeded your current quota, please check your plan and billing details")),
    ],
)
def test_an_account_without_money_is_told_from_haste(status, content):
    told = complaint(status, content, SENT)
    assert told.about == "run"
    assert told.out_of_money


@pytest.mark.parametrize(
    "content",
    [
        b"",
        said("Rate limit reached for m in organization o on tokens per min. Try again in 1s. Add a payment method to "
             "your account at https://x/account/billing", code="rate_limit_exceeded"),
        said("You exceeded your current quota, check your plan. Please retry in 23s", status="RESOURCE_EXHAUSTED"),
        said("Requests have exceeded the token rate limit of your pricing tier. Please retry after 20 seconds"),
    ],
)  # fmt: skip
def test_haste_passes(content):
    assert complaint(429, content, SENT).about == "moment"
    assert complaint(429, said("quota exceeded"), SENT, says_when=True).about == "moment"


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (400, said("Unsupported parameter: 'max_completion_tokens'", code="unsupported_parameter")),
        (400, said("Unsupported value: 0.0", param="temperature", code="unsupported_value")),
        (422, json.dumps({"detail": [{"loc": ["body", "reasoning_effort"], "msg": "Extra inputs"}]}).encode()),
        (422, b'{"detail": "Unexpected fields in the request: {\'temperature\'}"}'),
        (422, b'{"object": "error", "message": "extra field: max_completion_tokens", "code": 422}'),
        (400, said("Only 1 image is allowed in a request")),
        (400, said("At most 4 image(s) may be provided in one prompt.")),
        (400, said("You set image=1 (or defaulted to 1) in --limit-mm-per-prompt, but more than 1 image was passed")),
        (400, said("Too many images in the request")),
        (400, said("This model does not support image input")),
        (400, said("image_url is not supported by this model")),
        (401, said("Incorrect API key provided")),
        (403, b"<html>Forbidden</html>"),
        (404, said("The model `m` does not exist", code="model_not_found")),
        (405, b""),
        (410, b""),
        (501, b""),
        (301, b""),
        (307, b""),
    ],
)
def test_what_every_question_would_get_ends_the_run(status, content):
    assert complaint(status, content, SENT).about == "run"


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (400, said("The response was filtered", code="content_filter")),
        (400, said("Output blocked", innererror={"code": "ResponsibleAIPolicyViolation"})),
        (403, said("this input was flagged by moderation")),
        (400, said("Your request was rejected by our safety system")),
    ],
)
def test_a_filter_is_about_this_question(status, content):
    assert complaint(status, content, SENT).about == "question"


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (400, b"bad request"),
        (400, said("Could not decode image: unsupported image format, maximum 4 channels")),
        (400, said("Image size of 30 MB is more than the limit of 20 MB an image")),
        (400, said("This model's maximum context length is 4096 tokens, max_completion_tokens included")),
        (413, b"<html><head><title>413</title></head><body>Request Entity Too Large</body></html>"),
        (400, said("Invalid value for temperatures")),
    ],
)
def test_what_nobody_can_tell_is_left_open(status, content):
    assert complaint(status, content, SENT).about == "unclear"


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_the_servers_own_trouble_passes(status):
    assert complaint(status, said("temperature is high in here, and content_filter is down"), SENT).about == "moment"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (said("No", code="why_not"), "No (why_not)"),
        (b'{"error": "No"}', "No"),
        (b'{"message": "No", "code": 400}', "No"),
        (b'{"detail": "No"}', "No"),
        (b'{"detail": [{"loc": ["body", "n"], "msg": "No"}, {"msg": "Never"}]}', "body.n: No; Never"),
        (b'[{"error": {"message": "No"}}]', "No"),
        (b'{"errors": [{"message": "No"}, {"message": "Never"}]}', "No; Never"),
        (b'"No"', "No"),
        (b"No", "No"),
        (b"<html><head><style>p{}</style></head><body><h1>No</h1>\n<p>Never</p></body></html>", "No Never"),
        (said("Provider returned error", metadata={"raw": "No"}), "Provider returned error No"),
        (b"", "Bad Request"),
        (b"{}", "{}"),
        (b'{"error": null}', "Bad Request"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b'{"error": {"message": 7}}', "Bad Request"),
        (b"[" * 100_000, "[" * 100_000),
    ],
)  # fmt: skip
def test_the_reason_is_found_in_whatever_form_it_comes(content, words):
    assert complaint(400, content, SENT).words == words


def test_a_reason_is_one_line_without_tricks():
    assert one_line("a\x1b[31mred\x1b[0m\r\n\tb\u202e\u200bc\x00") == "ared b c"
