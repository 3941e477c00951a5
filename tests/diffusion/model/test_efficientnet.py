import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ppd.diffusion.model.efficientnet import WEIGHTS, EfficientNetEncoder
from ppd.errors import InputError


@pytest.fixture(scope="module")
def encoder() -> EfficientNetEncoder:
    torch.manual_seed(0)
    return EfficientNetEncoder().eval()


def test_names_and_shapes_are_torchvisions(encoder: EfficientNetEncoder) -> None:
    """The digest is of torchvision 0.29's efficientnet_v2_s().features, whose forward ours equals bit for bit."""
    weights = encoder.state_dict()
    backbone = {name: weight for name, weight in weights.items() if name.startswith("backbone.")}
    listed = "".join(f"{name} {tuple(weight.shape)}\n" for name, weight in backbone.items())
    assert hashlib.sha256(listed.encode()).hexdigest().startswith("13952b81ded6d3cb")
    assert len(backbone) == 780
    assert sum(weight.numel() for weight in encoder.backbone.parameters()) == 20_177_488
    assert set(weights) - set(backbone) == {
        "mapper.0.weight",
        "mapper.1.running_mean",
        "mapper.1.running_var",
        "mapper.1.num_batches_tracked",
    }


def test_a_latent_is_32_pixels_wide() -> None:
    with torch.device("meta"):
        assert EfficientNetEncoder()(torch.rand(1, 3, 768, 768)).shape == (1, 16, 24, 24)


def test_images_are_normalised_as_imagenet_was(encoder: EfficientNetEncoder) -> None:
    """An image of ImageNet's mean colour is zero to the network; one standard deviation more is one."""
    seen: list[torch.Tensor] = []
    handle = encoder.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None].expand(3, 32, 32)
    encoder(torch.stack([mean, mean + torch.tensor([0.229, 0.224, 0.225])[:, None, None]]))
    handle.remove()
    torch.testing.assert_close(seen[0][0], torch.zeros(3, 32, 32))
    torch.testing.assert_close(seen[0][1], torch.ones(3, 32, 32))


def test_the_published_file_loads_strictly(encoder: EfficientNetEncoder, tmp_path: Path) -> None:
    weights = encoder.state_dict()
    save_file(weights, tmp_path / WEIGHTS)
    loaded = EfficientNetEncoder.from_pretrained(tmp_path)
    assert all(torch.equal(weight, weights[name]) for name, weight in loaded.state_dict().items())
    assert not loaded.training, "batch norms must use their stored statistics"
    save_file({name: w for name, w in weights.items() if name != "mapper.1.running_var"}, tmp_path / WEIGHTS)
    with pytest.raises(InputError, match=r"(?s)effnet_encoder.safetensors: .*mapper.1.running_var"):
        EfficientNetEncoder.from_pretrained(tmp_path)
    save_file(weights | {"classifier.weight": torch.zeros(1)}, tmp_path / WEIGHTS)
    with pytest.raises(InputError, match="classifier.weight"):
        EfficientNetEncoder.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="effnet_encoder.safetensors"):
        EfficientNetEncoder.from_pretrained(tmp_path / "nowhere")
