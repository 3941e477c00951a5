import io
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ppd.errors import InputError
from ppd.vlm.prompts import ANSWERS, Candidates, Conversation, judge_conversation, profile_conversation
from ppd.vlm.transformers_backend import TransformersVlm

TOLERANCE = 2e-5


def by_the_library(vlm, conversation):
    """The library's own processor and forward, one conversation at a time."""
    pictures = [[Image.open(io.BytesIO(image)).convert("RGB") for image in conversation.images]]
    inputs = vlm.processor(text=[vlm.prompt(conversation)], images=pictures, return_tensors="pt")
    with torch.no_grad():
        output = vlm.model(**inputs, output_hidden_states=True)
    answers = [vlm.processor.tokenizer.convert_tokens_to_ids(word) for word in ANSWERS]
    return torch.stack([h[0, -1] for h in output.hidden_states]), output.logits[0, -1, answers].softmax(-1)


def test_the_numbers_are_those_of_the_library_whatever_a_row_is_batched_with(vlm, pairs, candidates):
    conversations = [judge_conversation(pairs(k), candidates(k), "short-1") for k in (1, 4, 2, 3, 1)]
    hidden, answers = vlm.hidden_at_end(conversations), vlm.answer_probabilities(conversations, ANSWERS)
    assert hidden.shape == (5, vlm.n_rows, vlm.width)
    for i, conversation in enumerate(conversations):
        expected_hidden, expected_answers = by_the_library(vlm, conversation)
        torch.testing.assert_close(hidden[i], expected_hidden, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(answers[i], expected_answers, atol=TOLERANCE, rtol=0)
    assert answers[0].sub(answers[1]).abs().max() > 1e-3, "the answers do not depend on the conversation"


def test_written_text_and_its_hidden_states_do_not_depend_on_the_batch(vlm, pairs):
    conversations = [profile_conversation(pairs(k), "short-1") for k in (1, 4, 2)]
    together = vlm.write(conversations, max_new_tokens=4)
    for written, conversation in zip(together, conversations, strict=True):
        (alone,) = vlm.write([conversation], max_new_tokens=4)
        assert written.text == alone.text
        torch.testing.assert_close(written.after, alone.after, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(written.before, vlm.hidden_at_end([conversation])[0], atol=TOLERANCE, rtol=0)


def test_the_state_after_writing_is_where_the_last_word_was_read(vlm, pairs):
    conversation = profile_conversation(pairs(2), "short-1")
    (written,) = vlm.write([conversation], max_new_tokens=4)
    words = vlm.processor.tokenizer(written.text, add_special_tokens=False).input_ids
    assert len(words) == 4, "this model's text ends early: take another seed"
    # Nothing ended the text, so its last word was never read: the one before it is the last that was.
    read = vlm.processor.tokenizer.decode(words[:-1])
    pictures = [[Image.open(io.BytesIO(image)).convert("RGB") for image in conversation.images]]
    inputs = vlm.processor(text=[vlm.prompt(conversation) + read], images=pictures, return_tensors="pt")
    hidden = vlm.model(**inputs, output_hidden_states=True).hidden_states
    torch.testing.assert_close(written.after, torch.stack([h[0, -1] for h in hidden]), atol=TOLERANCE, rtol=0)


def test_an_answer_that_another_wrote_leaves_the_states_of_one_that_was_written_here(vlm, pairs):
    """Whoever writes: reading prompt and answer at once is what generation left, but for rounding by its cache."""
    conversations = [profile_conversation(pairs(k), "short-1") for k in (1, 4, 2)]
    written = vlm.write(conversations, max_new_tokens=4)
    # Nothing ends these texts, so their last word was never read.
    answers = [vlm.tokens_of(answer.text)[:-1] for answer in written]
    assert [len(answer) for answer in answers] == [3, 3, 3], "this model's text ends early: take another seed"
    read = vlm.hidden_at_end(conversations, rows=(3, 1), answers=answers)
    expected = torch.stack([answer.after[[3, 1]] for answer in written])
    torch.testing.assert_close(read, expected, atol=TOLERANCE, rtol=0)
    assert (read - vlm.hidden_at_end(conversations, rows=(3, 1))).abs().max() > 1e-3


def test_what_a_server_wrote_holds_no_image(vlm):
    assert vlm.processor.image_token_id not in vlm.tokens_of("they like <image> of foxes")


def test_layers_above_the_highest_row_are_not_run_and_change_no_bit(vlm, pairs, monkeypatch):
    conversations = [profile_conversation(pairs(k), "short-1") for k in (3, 1)]
    everything = vlm.hidden_at_end(conversations)

    def never(*args, **options):
        raise AssertionError("a layer that nothing is read of was run")

    with monkeypatch.context() as patch:
        patch.setattr(vlm.language.layers[2], "forward", never)
        assert torch.equal(vlm.hidden_at_end(conversations, rows=(2, 0)), everything[:, [2, 0]])
    assert torch.equal(vlm.hidden_at_end(conversations), everything), "the model is whole again"


def test_a_batch_that_does_not_fit_is_halved_until_it_does(vlm, pairs, monkeypatch, capsys):
    conversations = [profile_conversation(pairs(k), "short-1") for k in (1, 4, 2, 3)]
    expected = vlm.hidden_at_end(conversations)
    monkeypatch.setattr(vlm, "batch_size", 4)
    embed, sizes = vlm._embed, []

    def small(tokens, *others):
        sizes.append(len(tokens))
        if len(tokens) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much")
        return embed(tokens, *others)

    monkeypatch.setattr(vlm, "_embed", small)
    torch.testing.assert_close(vlm.hidden_at_end(conversations), expected, atol=TOLERANCE, rtol=0)
    assert sizes == [4, 2, 1, 1, 1, 1]
    assert "from here on 1" in capsys.readouterr().err
    monkeypatch.setattr(vlm, "batch_size", 1)
    monkeypatch.setattr(vlm, "_embed", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory.")))
    with pytest.raises(torch.OutOfMemoryError):
        vlm.hidden_at_end(conversations)


def test_a_persons_pairs_are_read_once_without_changing_an_answer(vlm, pairs, candidates):
    known = pairs(4)
    for concepts in (
        [0, 1, 2, 3, 4],
        [5, 5, 5],
    ):  # the shared beginning ends before, or within, the candidates' caption
        conversations = [judge_conversation(known, candidates(c), "short-1") for c in concepts]
        torch.testing.assert_close(
            vlm.answers_about_one(conversations, ANSWERS),
            vlm.answer_probabilities(conversations, ANSWERS),
            atol=TOLERANCE,
            rtol=0,
        )


def test_reuse_is_right_where_candidates_are_shared_too(vlm, pairs, candidates, picture):
    known, asked = pairs(2), candidates(1)
    others = [Candidates(asked.caption, asked.first, picture()) for _ in range(3)]
    for conversations in (
        [judge_conversation(known, other, "short-1") for other in [asked, *others]],
        [judge_conversation(known, asked, "short-1")] * 2,
        [judge_conversation(pairs(k), asked, "short-1") for k in (2, 3)],  # two people: nothing but a turn's start
    ):
        torch.testing.assert_close(
            vlm.answers_about_one(conversations, ANSWERS),
            vlm.answer_probabilities(conversations, ANSWERS),
            atol=TOLERANCE,
            rtol=0,
        )


def test_reuse_reads_the_pairs_once(vlm, pairs, candidates, monkeypatch):
    known = pairs(4)
    conversations = [judge_conversation(known, candidates(c), "short-1") for c in range(6)]
    seen = []
    prepare = vlm.vision.prepare
    monkeypatch.setattr(vlm.vision, "prepare", lambda images: seen.extend(images) or prepare(images))
    vlm.answers_about_one(conversations, ANSWERS)
    assert len(seen) == 8 + 6 * 2


def test_broken_images_and_missing_ones_are_input_errors(vlm, pairs):
    conversation = profile_conversation(pairs(1), "short-1")
    with pytest.raises(InputError, match="cannot be decoded"):
        vlm.hidden_at_end([Conversation(conversation.text, (conversation.images[0], b"not an image"))])
    with pytest.raises(InputError, match="1 images for 2"):
        vlm.hidden_at_end([Conversation(conversation.text, conversation.images[:1])])


def test_answers_that_begin_alike_are_refused(vlm, pairs, candidates):
    conversation = judge_conversation(pairs(1), candidates(), "short-1")
    with pytest.raises(InputError, match="same token"):
        vlm.answer_probabilities([conversation], ("first", "first of all"))


def test_a_missing_checkpoint_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no LLaVA-OneVision checkpoint"):
        TransformersVlm.load(tmp_path / "nothing")


def test_the_revision_names_what_the_checkpoint_says(checkpoint, vlm, tmp_path):
    changed, documented = tmp_path / "changed", tmp_path / "documented"
    for copy in (changed, documented):
        shutil.copytree(checkpoint, copy)
    (documented / "README.md").write_text("a card")
    weights = load_file(changed / "model.safetensors")
    name = sorted(weights)[0]
    weights[name] = weights[name] + 1e-3
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    assert TransformersVlm.load(documented).ref.revision == vlm.ref.revision
    assert TransformersVlm.load(changed).ref.revision != vlm.ref.revision


def see(vlm, images):
    return vlm.vision.see(vlm.vision.prepare(images))


def saved(image: Image.Image, **how) -> bytes:
    image.save(buffer := io.BytesIO(), "PNG", **how)
    return buffer.getvalue()


def test_the_model_sees_a_picture_as_people_do(vlm, picture):
    """Turned by EXIF, transparent, of 16 bits: each is what an upright, opaque one of 8 bits is."""
    plain = Image.open(io.BytesIO(picture()))
    exif = Image.Exif()
    exif[0x0112] = 6
    ground = Image.new("RGBA", plain.size, (0, 0, 0, 0))
    ground.paste(plain, (20, 0))
    white = Image.new("RGB", plain.size, "white")
    white.paste(plain, (20, 0))
    for shown, same in (
        (saved(plain.transpose(Image.Transpose.ROTATE_90), exif=exif), saved(plain)),
        (saved(ground), saved(white)),
        (saved(Image.new("I;16", (64, 64), 40_000)), saved(Image.new("L", (64, 64), 40_000 >> 8))),
    ):
        torch.testing.assert_close(see(vlm, [shown]), see(vlm, [same]), atol=0, rtol=0)
        assert (see(vlm, [shown]) - see(vlm, [picture()])).abs().max() > 1e-3
