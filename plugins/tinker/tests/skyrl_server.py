"""SkyRL's server of Tinker's protocol on a processor: ``python skyrl_server.py MODEL FOLDER PORT``.

Run by an environment that has skyrl. Its own command starts its engine through ``uv run``; this one does without.
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn
from skyrl.tinker import api
from skyrl.tinker.config import EngineConfig, config_to_argv

PLACES = {
    "max_lora_adapters": 8,
    "max_lora_rank": 8,
    "train_micro_batch_size": 8,
    "sample_max_num_sequences": 64,
}


def main(model: str, folder: Path, port: int) -> None:
    engine = [sys.executable, "-m", "skyrl.tinker.engine"]
    api._build_uv_run_cmd_engine = lambda parent, config: [*engine, *config_to_argv(config)]
    api.app.state.engine_config = EngineConfig(
        base_model=model,
        backend_config=PLACES,
        checkpoints_base=folder / "checkpoints",
        database_url=f"sqlite:///{folder / 'server.db'}",
    )
    uvicorn.run(api.app, host="127.0.0.1", port=port)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
