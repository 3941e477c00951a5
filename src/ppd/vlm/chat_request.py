"""A conversation as the body of a chat request."""

import base64

from ppd.settings import ServerSettings
from ppd.vlm.prompts import IMAGE, Conversation
from ppd.vlm.sent_images import as_sent


def chat_request(conversation: Conversation, server: ServerSettings) -> dict[str, object]:
    """One turn, text and images in the order of the conversation."""
    texts = conversation.text.split(IMAGE)
    content: list[dict[str, object]] = []
    for text, image in zip(texts, [*conversation.images, None], strict=True):
        if text:
            content.append({"type": "text", "text": text})
        if image is not None:
            content.append({"type": "image_url", "image_url": {"url": _data_url(image)}})
    body: dict[str, object] = {"model": server.model, "messages": [{"role": "user", "content": content}]}
    if server.max_tokens_field is not None:
        body[server.max_tokens_field] = server.max_new_tokens
    if server.temperature is not None:
        body["temperature"] = server.temperature
    return body | dict(server.extra_body)


def _data_url(image: bytes) -> str:
    kind, sent = as_sent(image)
    return f"data:{kind};base64,{base64.b64encode(sent).decode()}"
