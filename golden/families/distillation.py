"""distillation.safetensors: what a student of four steps should give, from two steps of diffusers by two teachers."""

import torch
from diffusers import DDIMScheduler

from . import unets
from .common import generator, normal, relative, write_json, write_tensors
from .steps import exact_alpha_bar, in_double

# Networks of golden/values/unet_<name>, each with its prediction type.
TEACHERS = [("cifar", "epsilon"), ("scale_shift", "v_prediction")]
TEACHER_STEPS, STUDENT_STEPS = 8, 4


def make_scheduler(prediction, steps):
    scheduler = DDIMScheduler(
        num_train_timesteps=1000, beta_schedule="linear", prediction_type=prediction, clip_sample=False,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(steps)
    return scheduler


def two_steps(model, scheduler, x, first):
    """Where the teacher lands after two steps from its step `first`."""
    with torch.no_grad():
        for t in scheduler.timesteps[first:first + 2]:
            x = scheduler.step(model(x, t).sample, int(t), x, eta=0.0).prev_sample
    return x


def student_step(prediction, output, t, x):
    """One step of the student in f64."""
    scheduler = in_double(make_scheduler(prediction, STUDENT_STEPS), "linear", False)
    return scheduler.step(output, int(t), x, eta=0.0).prev_sample


def make():
    tensors, cases = {}, []
    alpha_bar = exact_alpha_bar("linear", False)
    for name, prediction in TEACHERS:
        config = unets.ARCHITECTURES[name]
        x = normal(generator(f"distillation {name}"), STUDENT_STEPS, config["in_channels"], *unets.size_of(config))
        models = unets.build(name), unets.in_double(unets.build(name))
        times = make_scheduler(prediction, STUDENT_STEPS).timesteps
        sample, velocity, deviation = [], [], 0.0
        for k, t in enumerate(times):
            row = x[k:k + 1]
            stock = two_steps(models[0], make_scheduler(prediction, TEACHER_STEPS), row, 2 * k)
            exact = in_double(make_scheduler(prediction, TEACHER_STEPS), "linear", False)
            landed = two_steps(models[1], exact, row.double(), 2 * k)
            deviation = max(deviation, relative(stock, landed))
            a = alpha_bar[t]
            b = alpha_bar[times[k + 1]] if k + 1 < len(times) else torch.tensor(1.0, dtype=torch.float64)
            ratio = ((1 - b) / (1 - a)) ** 0.5
            x0 = (landed - ratio * row.double()) / (b**0.5 - ratio * a**0.5)
            eps = (row.double() - a**0.5 * x0) / (1 - a) ** 0.5
            v = a**0.5 * eps - (1 - a) ** 0.5 * x0
            # diffusers' own step with these outputs lands where the teacher's two steps land.
            for kind, output in [("sample", x0), ("v_prediction", v)]:
                assert relative(student_step(kind, output, t, row.double()), landed) < 1e-12, (name, kind, int(t))
            sample.append(x0), velocity.append(v)
        tensors |= {f"{name}/x": x, f"{name}/sample": torch.cat(sample).float(), f"{name}/v": torch.cat(velocity).float()}
        print(f"{name}: f32 deviates by {deviation:.1e}")
        cases.append({"model": f"unet_{name}", "name": name, "prediction": prediction, "times": times.tolist(),
                      "f32_deviation": deviation})
    write_tensors("distillation.safetensors", tensors)
    write_json("distillation.json", {"teacher_steps": TEACHER_STEPS, "student_steps": STUDENT_STEPS, "cases": cases})
