"""Images with the options that they were made with."""

import json
import os

import numpy as np

from . import _skipstone


class Samples:
    """Images of a run, float32 [n, c, h, w], nominally in −1..1, not clamped.

    NumPy takes it as an array: ``np.asarray(samples)`` is `samples.array`, without a copy. In Jupyter it shows itself as a grid.

    Attributes:
        array: the images.
        options: the resolved options of the run, as in manifests; equal options make equal images.
        first: index of the first image.
        columns: of the grid [near square].
    """

    def __init__(self, array, options=None, first=0, columns=None):
        array = np.asarray(array)
        if array.ndim != 4:
            raise ValueError(f"images: expected an array [n, c, h, w], found the shape {array.shape}")
        self.array = array
        self.options = dict(options or {})
        self.first = first
        self.columns = columns

    def __array__(self, dtype=None, copy=None):
        if dtype is not None and np.dtype(dtype) != self.array.dtype:
            if copy is False:
                raise ValueError(f"a {np.dtype(dtype)} array of these float32 images needs a copy")
            return self.array.astype(dtype)
        return self.array.copy() if copy else self.array

    @property
    def shape(self):
        """(n, c, h, w)."""
        return self.array.shape

    @property
    def dtype(self):
        """float32."""
        return self.array.dtype

    @property
    def ndim(self):
        """4."""
        return self.array.ndim

    def __len__(self):
        return len(self.array)

    def __getitem__(self, key):
        """What NumPy's indexing gives; for a slice of images, Samples."""
        if isinstance(key, slice) and key.step in (None, 1):
            start = key.indices(len(self))[0]
            return Samples(self.array[key], self.options, self.first + start)
        return self.array[key]

    def __iter__(self):
        return iter(self.array)

    def __repr__(self):
        steps = self.options.get("steps")
        made = f", {steps} steps" if steps is not None else ""
        return f"Samples({self.shape[0]} images of {self.shape[1]}×{self.shape[2]}×{self.shape[3]}{made})"

    def images(self):
        """The pictures: uint8 [n, h, w, c], −1..1 mapped to 0..255 and clamped."""
        return _skipstone.pictures(self.array)

    def pil(self):
        """A list of PIL images; needs Pillow.

        Raises:
            ValueError: the images have neither 1 nor 3 channels.
        """
        from PIL import Image

        pictures = self.images()
        if pictures.shape[3] not in (1, 3):
            raise ValueError(f"images: only 1 or 3 channels make a picture, found {pictures.shape[3]}")
        return [Image.fromarray(p[:, :, 0] if p.shape[2] == 1 else p) for p in pictures]

    def save(self, path):
        """Writes the images as the command does: NAME.png is one grid, NAME.npy the array, any other name a folder with one PNG
        per image and a manifest.

        Raises:
            OSError: the file cannot be written. ValueError: the folder holds images of other options.
        """
        path = os.fspath(path)
        if path.endswith(".png"):
            _skipstone.write(path, self.png())
        elif path.endswith(".npy"):
            _skipstone.save_npy(path, self.array)
        else:
            _skipstone.save_folder(path, self.array, json.dumps(self.options), self.first)

    def png(self):
        """The bytes of a PNG file of the grid, with the options as its texts."""
        return _skipstone.png(self.array, json.dumps(self.options), self.first, self.columns)

    def _repr_png_(self):
        return self.png() if self.shape[1] in (1, 3) and len(self) else None

