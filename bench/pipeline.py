"""A whole program as a diffusers user would write it: a model folder in, a PNG out.

    python bench/pipeline.py MODEL_DIR IMAGES STEPS OUT.png THREADS
"""

import math
import sys

# diffusers imports transformers if it is installed, which takes a second and is not needed here.
sys.modules["transformers"] = None

import torch  # noqa: E402
from diffusers import DDIMPipeline  # noqa: E402
from diffusers.utils import make_image_grid  # noqa: E402

folder, images, steps, out, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
torch.set_num_threads(threads)
pipeline = DDIMPipeline.from_pretrained(folder, local_files_only=True)
pipeline.set_progress_bar_config(disable=True)
generator = torch.Generator().manual_seed(0)
made = pipeline(batch_size=images, num_inference_steps=steps, eta=0.0, generator=generator).images
columns = math.isqrt(images - 1) + 1
rows = -(-images // columns)
# make_image_grid needs a full grid.
made += [made[-1]] * (rows * columns - images)
make_image_grid(made, rows, columns).save(out)
