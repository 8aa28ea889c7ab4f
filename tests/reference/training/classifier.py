"""Writes classifier.json: scikit-learn's multinomial logistic regression of seeded samples. Step 1 of training must
give the same result.

    python3 tests/reference/training/classifier.py        # needs numpy and scikit-learn (made with 1.9)

The features resemble those after a network's last ReLU: none is negative, means exceed deviations, one is nearly
constant and one is always 0. A smoothed target becomes a sample of every class, each with a share of the weight.
"""

import json
import pathlib

import numpy as np
from sklearn.linear_model import LogisticRegression

N, WIDTH, CLASSES = 90, 8, 4
SMOOTHING, PENALTY = 0.1, 0.01

rng = np.random.default_rng(5)
labels = rng.integers(0, CLASSES, N)
centres = rng.normal(size=(CLASSES, WIDTH))
x = np.maximum(2.0 + centres[labels] + rng.normal(size=(N, WIDTH)), 0)
x[:, WIDTH - 2] = 3.0 + 1e-3 * x[:, WIDTH - 2]
x[:, WIDTH - 1] = 0.0
x = x.astype(np.float32)
weights = rng.uniform(0.25, 4.0, N).astype(np.float32)

targets = np.full((N, CLASSES), SMOOTHING / CLASSES)
targets[np.arange(N), labels] += 1.0 - SMOOTHING
share = (weights.astype(np.float64)[:, None] * targets).ravel() / weights.astype(np.float64).sum()
rows = np.repeat(x.astype(np.float64), CLASSES, axis=0)
model = LogisticRegression(C=1.0 / PENALTY, tol=1e-12, max_iter=100_000, solver="lbfgs")
model.fit(rows, np.tile(np.arange(CLASSES), N), sample_weight=share)
logits = x.astype(np.float64) @ model.coef_.T + model.intercept_
p = np.exp(logits - logits.max(axis=1, keepdims=True))
p /= p.sum(axis=1, keepdims=True)
loss = -(targets * np.log(p)).sum(axis=1) @ weights.astype(np.float64) / weights.astype(np.float64).sum()
out = {
    "classes": CLASSES,
    "width": WIDTH,
    "smoothing": SMOOTHING,
    "penalty": PENALTY,
    "features": [round(float(v), 7) for v in x.ravel()],
    "labels": labels.tolist(),
    "weights": [round(float(v), 7) for v in weights],
    "weight": model.coef_.ravel().tolist(),
    # Only differences of biases are determined.
    "bias": (model.intercept_ - model.intercept_.mean()).tolist(),
    "loss": float(loss),
}
path = pathlib.Path(__file__).parent / "classifier.json"
path.write_text(json.dumps(out) + "\n")
print(path, model.n_iter_, loss)
