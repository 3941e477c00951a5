import gc

import torch

from ppd.vlm.last_position import states_at

N, LENGTH = 3, 11


def test_the_states_are_the_librarys_at_any_position(vlm):
    embedded = torch.randn(N, LENGTH, vlm.width)
    with torch.no_grad():
        everything = vlm.language(inputs_embeds=embedded, output_hidden_states=True).hidden_states
        for position in (None, torch.tensor([4, 10, 0])):
            with states_at(vlm.language, position) as latest:
                vlm.language(inputs_embeds=embedded)
            place = torch.full((N,), LENGTH - 1) if position is None else position
            expected = torch.stack([layer[torch.arange(N), place] for layer in everything], dim=1)
            assert torch.equal(latest(), expected)


def test_nothing_keeps_the_other_positions_alive(vlm):
    with torch.no_grad(), states_at(vlm.language):
        vlm.language(inputs_embeds=torch.randn(N, LENGTH, vlm.width))
        alive = [x for x in gc.get_objects() if type(x) is torch.Tensor and x.shape == (N, vlm.width)]
        assert len(alive) == vlm.n_rows
        # A view of one position would hold the whole.
        assert all(state.untyped_storage().nbytes() == 4 * state.numel() for state in alive)


def test_a_model_is_left_as_it_was(vlm):
    def n_hooks() -> int:
        return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in vlm.language.modules())

    before = n_hooks()
    with states_at(vlm.language):
        assert n_hooks() == before + vlm.n_rows
    assert n_hooks() == before
