"""One training by TRL's SFTTrainer, in a process of its own: `peer.py JOB.json`, one JSON line out.

The job: `base` (folder), `texts` (pairs of prompt and completion), `out` (folder of the adapter or null), `recipe`
(r, lora_alpha, layers, learning_rate, batch_size, epochs, max_length, seed) and `setting` (packing, grouped, bf16).
"""

# ruff: noqa: TID253
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false, reportUnknownMemberType=false
import json
import sys
import time
from pathlib import Path

import pyarrow as pa
import torch
import transformers
from datasets import Dataset, disable_progress_bars
from datasets.table import InMemoryTable
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer


def main() -> None:
    """Train as the job says."""
    job = json.loads(Path(sys.argv[1]).read_text())
    recipe, setting = job["recipe"], job["setting"]
    disable_progress_bars()
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(job["base"], dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["base"])
    arguments = SFTConfig(
        output_dir=str(Path(sys.argv[1]).parent / "trainer"),
        per_device_train_batch_size=recipe["batch_size"],
        num_train_epochs=recipe["epochs"],
        learning_rate=recipe["learning_rate"],
        lr_scheduler_type="linear",
        warmup_steps=8,
        weight_decay=0.0,
        max_grad_norm=0.0,
        max_length=recipe["max_length"],
        completion_only_loss=True,
        packing=setting["packing"],
        padding_free=False,
        train_sampling_strategy="group_by_length" if setting["grouped"] else "random",
        bf16=setting["bf16"],
        gradient_checkpointing=False,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        logging_strategy="no",
        disable_tqdm=True,
        seed=recipe["seed"],
        dataloader_num_workers=0,
    )
    adapter = LoraConfig(
        r=recipe["r"],
        lora_alpha=recipe["lora_alpha"],
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        layers_to_transform=recipe["layers"],
        task_type="CAUSAL_LM",
    )
    # As tokens, which SFTTrainer takes as they are: both trainings see the same ones.
    lines = []
    for prompt, completion in job["texts"]:
        asked, answered = (tokenizer(t, add_special_tokens=False).input_ids for t in (prompt, completion))
        if len(asked) + len(answered) <= recipe["max_length"]:
            lines.append({"input_ids": asked + answered, "completion_mask": [0] * len(asked) + [1] * len(answered)})
    table = InMemoryTable(pa.Table.from_pylist(lines))
    data = Dataset(table, fingerprint="sft")  # its own would be a hash that not every pyarrow lets it take
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=data, processing_class=tokenizer, peft_config=adapter
    )
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    if job["out"]:
        trainer.save_model(job["out"])
    print(json.dumps({"seconds": seconds, "steps": trainer.state.global_step}))


if __name__ == "__main__":
    main()
