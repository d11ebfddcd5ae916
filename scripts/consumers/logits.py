"""mlx-lm, ONNX Runtime or PEFT: python logits.py mlx|onnx|peft MODEL ADAPTER REQUEST OUT. REQUEST and OUT are those of llama.ts. Prints JSON."""

import json
import sys
from importlib.metadata import version

import numpy as np

kind, model_path, adapter, request, out = sys.argv[1:]
sequences = json.load(open(request))["sequences"]


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


if kind == "mlx":
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model
    from pathlib import Path

    model, _ = load_model(Path(model_path))
    model.update(tree_map(lambda x: x.astype(mx.float32) if x.dtype in (mx.bfloat16, mx.float16) else x, model.parameters()))
    model = load_adapters(model, adapter)
    model.eval()
    name = f"mlx-lm {version('mlx-lm')} (mlx {version('mlx')})"

    def logits(ids):
        return np.array(model(mx.array([ids])).astype(mx.float32))[0]

elif kind == "onnx":
    import onnxruntime as ort

    quiet = ort.SessionOptions()
    quiet.log_severity_level = 3
    session = ort.InferenceSession(model_path, quiet)
    run_options = ort.RunOptions()
    if adapter != "-":
        lora = ort.LoraAdapter()
        lora.Load(adapter)
        run_options.add_active_adapter(lora)
    name = f"onnxruntime {version('onnxruntime')}"

    def logits(ids):
        ids = np.array([ids], dtype=np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(ids.shape[1])[None]}
        for one in session.get_inputs():
            if one.name.startswith("past_key_values."):
                feeds[one.name] = np.zeros((1, one.shape[1], 0, one.shape[3]), dtype=np.float32)
        return session.run(["logits"], feeds, run_options)[0][0]

else:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(model, adapter).eval()
    name = f"peft {version('peft')} (transformers {version('transformers')})"

    def logits(ids):
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0].float().numpy()


rows = [log_softmax(logits(one["ids"])[-one["asked"] :]) for one in sequences]
np.concatenate(rows).astype(np.float32).tofile(out)
print(json.dumps({"version": name}))
