#!/usr/bin/env python3
"""What PyTorch + PEFT need for LoRA steps on this machine: a line when the first step has finished, and one of JSON at the end.

    python peft_step.py MODEL_DIR --tokens 512 --batch 1 --dtype bfloat16 --steps 6 [--checkpointing] [--compile]

One step = forward, backward and AdamW on random tokens, every position a target, LoRA r=8 on all linear layers, no dropout.
Seconds are the median over the steps after the first two. rss_mb is the process's own peak.
Install: pip install torch transformers peft
"""
import argparse, json, os, resource, statistics, time, warnings
os.environ["HF_HUB_OFFLINE"] = "1"; os.environ["TRANSFORMERS_VERBOSITY"] = "error"; warnings.filterwarnings("ignore")
import torch, transformers, peft
transformers.utils.logging.disable_progress_bar()

p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
p.add_argument("model"); p.add_argument("--tokens", type=int, default=512); p.add_argument("--batch", type=int, default=1)
p.add_argument("--dtype", default="float32"); p.add_argument("--steps", type=int, default=6); p.add_argument("--rank", type=int, default=8)
p.add_argument("--threads", type=int, default=os.cpu_count()); p.add_argument("--checkpointing", action="store_true"); p.add_argument("--compile", action="store_true")
a = p.parse_args()
torch.set_num_threads(a.threads); torch.manual_seed(0)
model = transformers.AutoModelForCausalLM.from_pretrained(a.model, dtype=getattr(torch, a.dtype), attn_implementation="sdpa")
model.config.use_cache = False
if a.checkpointing:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False}); model.enable_input_require_grads()
model = peft.get_peft_model(model, peft.LoraConfig(r=a.rank, lora_alpha=2 * a.rank, target_modules="all-linear", task_type="CAUSAL_LM")).train()
optimizer = torch.optim.AdamW([q for q in model.parameters() if q.requires_grad], lr=2e-4)
run = torch.compile(model) if a.compile else model
ids = torch.randint(0, model.config.vocab_size, (a.batch, a.tokens))
times, losses, cpu = [], [], []
for _ in range(a.steps + 2):
    t, c = time.perf_counter(), time.process_time(); optimizer.zero_grad(set_to_none=True)
    loss = run(input_ids=ids, labels=ids).loss; loss.backward(); optimizer.step()
    times.append(time.perf_counter() - t); cpu.append(time.process_time() - c); losses.append(loss.item())
    if len(times) == 1: print("first step", flush=True)
s = statistics.median(times[2:])
print(json.dumps(dict(tool="peft", dtype=a.dtype, tokens=a.tokens, batch=a.batch, checkpointing=a.checkpointing, compile=a.compile, seconds=round(s, 4), step_seconds=[round(t, 4) for t in times], cpu_seconds=round(statistics.median(cpu[2:]), 4),
    tokens_per_second=round(a.batch * a.tokens / s, 1), rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, first_step_seconds=round(times[0], 2),
    loss_first=losses[0], loss_last=losses[-1], trainable=sum(q.numel() for q in model.parameters() if q.requires_grad), torch=torch.__version__.split("+")[0], peft=peft.__version__)))
