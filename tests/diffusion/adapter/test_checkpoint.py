"""The files of a trained adapter: read back they draw the same, and what does not belong is refused."""

from pathlib import Path

import pytest
import torch

from ppd.diffusion.adapter.checkpoint import AdapterConfig, adapter_config, load_adapter, save_adapter
from ppd.diffusion.model.backbone import Codec
from ppd.diffusion.model.stable_cascade import StableCascadeBackbone
from ppd.diffusion.training.dataset import TrainingData
from ppd.diffusion.training.trainer import Trainer
from ppd.errors import InputError
from ppd.settings import LoraSettings, Method
from tests.diffusion.tastes import ALONE, BESIDE, SETTINGS, run


@pytest.mark.parametrize(("method", "lora"), [("ppd", None), ("dpo", None), ("ppd", BESIDE), ("dpo", ALONE)])
def test_an_adapter_is_the_same_after_saving_and_loading(
    backbone: StableCascadeBackbone, data: TrainingData, tmp_path: Path, method: Method, lora: LoraSettings | None
) -> None:
    trainer, _ = run(backbone, data, tmp_path / "work", method, ema_decay=0.5, lora=lora)
    config = adapter_config(
        trainer.adapter, backbone, method, whitening="w1", training=SETTINGS.model_dump(), data_hash=data.content_hash
    )
    save_adapter(tmp_path / "model", trainer.final_weights(), config)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["adapter.safetensors", "config.json"]
    loaded = load_adapter(tmp_path / "model", backbone)
    x_t, t, u = torch.randn(3, 4, 4, 4), torch.rand(3), data.embeddings[:3]
    text = data.text[torch.tensor([0, 1, 0])]
    with torch.no_grad(), loaded.users(u):
        after = backbone.predict(x_t, t, text)
    loaded.detach()
    trainer.adapter.attach(backbone)
    with torch.no_grad(), trainer.averaged_weights(), trainer.adapter.users(u):
        assert torch.equal(backbone.predict(x_t, t, text), after)
    with torch.no_grad(), trainer.adapter.users(None):
        assert not torch.equal(backbone.predict(x_t, t, text), after)


def test_loading_checks_the_base_and_the_files(
    backbone: StableCascadeBackbone, codec: Codec, data: TrainingData, tmp_path: Path
) -> None:
    trainer, _ = run(backbone, data, tmp_path / "work")
    folder = tmp_path / "model"
    config = adapter_config(trainer.adapter, backbone, "ppd")
    save_adapter(folder, trainer.final_weights(), config)

    def with_config(**changes: object) -> None:
        (folder / "config.json").write_text(config.model_copy(update=changes).model_dump_json())

    backbone.unet.clf[1].weight.data *= 2
    other = StableCascadeBackbone(
        unet=backbone.unet, text_encoder=backbone.text_encoder, tokenizer=backbone.tokenizer, codec=codec
    )
    with pytest.raises(InputError, match=r"trained on .* but the base here is"):
        load_adapter(folder, other)
    backbone.unet.clf[1].weight.data /= 2
    with_config(embedding_shape=(2, 7))
    with pytest.raises(InputError, match=r"to_tokens is \(2, 6, 16\), expected \(2, 7, 16\)"):
        load_adapter(folder, backbone)
    with_config(blocks={"up_0_2": 24})
    with pytest.raises(InputError, match=r"blocks.down_0_2.to_k.weight is unknown"):
        load_adapter(folder, backbone)
    (folder / "config.json").write_text('{"method": "ppd"}')
    with pytest.raises(InputError, match=r"config.json: not the config of an adapter"):
        load_adapter(folder, backbone)
    (folder / "config.json").write_text(config.model_dump_json())
    (folder / "adapter.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"adapter.safetensors: damaged"):
        load_adapter(folder, backbone)
    with pytest.raises(InputError, match="no such file"):
        load_adapter(tmp_path / "nowhere", backbone)


def test_config_keeps_what_the_contract_names(backbone: StableCascadeBackbone, data: TrainingData) -> None:
    trainer = Trainer(backbone, data, SETTINGS, "ppd")
    config = adapter_config(trainer.adapter, backbone, "ppd", whitening="abc")
    again = AdapterConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert again.base.fingerprint == backbone.fingerprint
    assert list(again.blocks) == ["down_0_2", "down_1_2", "up_0_2", "up_1_2"]
