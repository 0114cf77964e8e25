"""skipstone's Python package beside diffusers and azula: lines of user code for five tasks, and seconds from import to array.

    pip install ./bindings/python torch diffusers azula
    python bench/libraries.py MODEL [--repeats 5] [--threads 1]

MODEL is a diffusers folder of a model that predicts v. Every task is a program of its own, run in a process of its own, in turn
with those of the other libraries; the median is printed. Seconds are those of the processor, because other work on the machine
changes them least; on one thread and an idle machine they are those of the clock. The programs for one task return the same
images, which is checked.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile

# What the caller has already: latents x_T, pictures in −1..1 and, where it is his own, a network.
GIVEN = """
import numpy as np
x_T = np.load("x_T.npy")[:N]
"""
NETWORK = """
import torch
torch.manual_seed(0)
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Conv2d(1, 32, 3, padding=1), torch.nn.Conv2d(32, 1, 3, padding=1)
    def forward(self, x, t):
        return 0.9 * x + 0.1 * self.b(torch.tanh(self.a(x) + t[:, None, None, None] / 1000))
net = Net()
"""

SKIPSTONE_SAMPLE = """
import skipstone as ss
x = ss.load(MODEL).sample(latents=x_T, steps=20)
"""
DIFFUSERS_SAMPLE = """
from diffusers import DDIMPipeline
x = DDIMPipeline.from_pretrained(MODEL)(N, num_inference_steps=20, output_type="np").images
"""
# The pipeline draws its own latents; this is the same run from given ones.
DIFFUSERS_CHECK = """
import torch
from diffusers import DDIMPipeline
pipe = DDIMPipeline.from_pretrained(MODEL)
pipe.scheduler.set_timesteps(20)
x = torch.from_numpy(x_T)
with torch.no_grad():
    for t in pipe.scheduler.timesteps:
        x = pipe.scheduler.step(pipe.unet(x, t).sample, t, x).prev_sample
"""
AZULA = """
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import Schedule
from azula.sample import DDIMSampler
class Linear(Schedule):
    def __init__(self):
        self.a = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0).float()
    def index(self, t):
        return (1000 * t).round().long().clamp(1, 1000) - 1
    def __call__(self, t):
        a = torch.where(t > 0, self.a[self.index(t)], 1.0)
        return a.sqrt(), (1 - a).sqrt()
class Wrapped(Denoiser):
    def __init__(self, net):
        super().__init__()
        self.net, self.schedule = net, Linear()
    def forward(self, x, t):
        alpha, sigma = self.schedule(t)
"""
AZULA_SAMPLE = (
    """
import torch
from diffusers import UNet2DModel
"""
    + AZULA
    + """
        v = self.net(x, self.schedule.index(t)).sample
        return DiracPosterior(alpha * x - sigma * v)
x = DDIMSampler(Wrapped(UNet2DModel.from_pretrained(MODEL, subfolder="unet")), steps=20, silent=True)(torch.from_numpy(x_T))
"""
)
SKIPSTONE_OWN = """
import skipstone as ss
sampler = ss.Sampler(ss.torch.wrap(net, (1, 28, 28)), schedule=ss.Schedule.linear(1e-4, 0.02, 1000))
x = sampler.sample(latents=x_T, steps=20, spacing="trailing")
"""
DIFFUSERS_OWN = """
from diffusers import DDIMScheduler
scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False, timestep_spacing="trailing")
scheduler.set_timesteps(20)
x = torch.from_numpy(x_T)
with torch.no_grad():
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t.expand(len(x))), t, x).prev_sample
"""
AZULA_OWN = (
    AZULA
    + """
        eps = self.net(x, self.schedule.index(t).expand(len(x)))
        return DiracPosterior((x - sigma * eps) / alpha)
x = DDIMSampler(Wrapped(net), steps=20, silent=True)(torch.from_numpy(x_T))
"""
)
SKIPSTONE_INVERT = """
import skipstone as ss
model = ss.load(MODEL)
x = model.decode(model.encode(pictures, method="bdia", steps=20), method="bdia", steps=20)
"""
SKIPSTONE_LIKELIHOOD = """
import skipstone as ss
x = ss.load(MODEL).likelihood(pictures, method="ode", steps=20, probes=2).images
"""

TASKS = {
    "one image of a saved model, 20 steps": (1, "", {"skipstone": SKIPSTONE_SAMPLE, "diffusers": DIFFUSERS_SAMPLE, "azula": AZULA_SAMPLE}),
    "64 images of it": (64, "", {"skipstone": SKIPSTONE_SAMPLE, "diffusers": DIFFUSERS_SAMPLE, "azula": AZULA_SAMPLE}),
    "a PyTorch network of one's own under DDIM": (16, NETWORK, {"skipstone": SKIPSTONE_OWN, "diffusers": DIFFUSERS_OWN, "azula": AZULA_OWN}),
    "8 images to latents and back, exactly": (8, 'pictures = np.load("pictures.npy")\n', {"skipstone": SKIPSTONE_INVERT}),
    "bits per dimension of 8 images": (8, 'pictures = np.load("pictures.npy")\n', {"skipstone": SKIPSTONE_LIKELIHOOD}),
}


def read(folder):
    with open(os.path.join(folder, "out.npy"), "rb") as file:
        return file.read()


def lines(code):
    return sum(1 for line in code.splitlines() if line.strip())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    model = os.path.abspath(arguments.model)
    threads = {name: str(arguments.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "SKIPSTONE_THREADS")}
    environment = {**os.environ, **threads, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-c", f"import numpy as np, skipstone as ss; np.save('x_T.npy', ss.latents(64, (1, 28, 28)));"
             f"np.save('pictures.npy', np.asarray(ss.load({model!r}).sample(8, steps=20, seed=1)).clip(-1, 1))"],
            cwd=folder, env=environment, check=True,
        )
        for task, (n, given, programs) in TASKS.items():
            seconds, images = {name: [] for name in programs}, {}
            for _ in range(arguments.repeats):
                for name, code in programs.items():
                    text = f"N, MODEL = {n}, {model!r}\n" + GIVEN + given + code + "\nnp.save('out.npy', np.asarray(x))\n"
                    before = resource.getrusage(resource.RUSAGE_CHILDREN)
                    subprocess.run([sys.executable, "-c", text], cwd=folder, env=environment, check=True, stderr=subprocess.PIPE)
                    after = resource.getrusage(resource.RUSAGE_CHILDREN)
                    seconds[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
                    if code is not DIFFUSERS_SAMPLE:
                        images[name] = read(folder)
            if DIFFUSERS_SAMPLE in programs.values():
                text = f"N, MODEL = {n}, {model!r}\n" + GIVEN + DIFFUSERS_CHECK + "\nnp.save('out.npy', np.asarray(x))\n"
                subprocess.run([sys.executable, "-c", text], cwd=folder, env=environment, check=True, stderr=subprocess.PIPE)
                images["diffusers"] = read(folder)
            compare(task, images)
            for name, code in programs.items():
                row = {"task": task, "library": name, "lines": lines(code), "seconds": round(statistics.median(seconds[name]), 2)}
                print(json.dumps(row), flush=True)


def compare(task, images):
    import io

    import numpy as np

    arrays = {name: np.load(io.BytesIO(data)) for name, data in images.items()}
    first = arrays["skipstone"]
    for name, array in arrays.items():
        difference = np.abs(array - first).max()
        if difference > 1e-3 * max(1.0, np.abs(first).max()):
            sys.exit(f"{task}: the images of {name} differ by {difference:.1e}")


if __name__ == "__main__":
    main()
