"""Keras 3 on PyTorch, up to its first update."""

import os
import time

os.environ["KERAS_BACKEND"] = "torch"  # is read by the import
import keras
import torch
from torch.utils.data import DataLoader, TensorDataset

model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(128, "relu"), keras.layers.Dense(10)])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
loader = DataLoader(TensorDataset(torch.randn(64, 64), torch.randint(10, (64,))), batch_size=64, shuffle=True)


class Noted(keras.callbacks.Callback):
    """Says when an update was made."""

    def on_train_batch_end(self, batch, logs=None):
        print("first update at", time.monotonic(), flush=True)


model.fit(loader, verbose=0, shuffle=False, callbacks=[Noted()])  # the loader shuffles
