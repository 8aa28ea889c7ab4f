"""Writes metrics.json: scikit-learn's figures for seeded predictions. The program must compute the same figures.

    python3 tests/reference/metrics.py        # needs numpy and scikit-learn (made with 1.9)

Cases: softmax rows; rows of eighths, with many ties, zeros and ones; a class without samples; a single class; labels
that are not the most probable class (a majority vote may differ from the mean).
"""

import json
import pathlib

import numpy as np
from sklearn import metrics
from sklearn.calibration import calibration_curve

BINS = 15


def softmax_rows(rng, truth, classes, sharpness):
    logits = rng.normal(size=(len(truth), classes)) + sharpness * np.eye(classes)[truth]
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (e / e.sum(axis=1, keepdims=True)).astype(np.float32)


def eighths(rng, truth, classes):
    weights = rng.dirichlet(np.ones(classes), size=len(truth)) + 0.7 * np.eye(classes)[truth]
    return np.stack([rng.multinomial(8, w / w.sum()) for w in weights]).astype(np.float32) / 8


def case(name, truth, p, predicted=None):
    n, classes = p.shape
    labels = list(range(classes))
    predicted = p.argmax(axis=1) if predicted is None else predicted
    # Averages are over the classes that have samples.
    present = sorted(set(truth.tolist()))
    each = metrics.precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0)
    mean = metrics.precision_recall_fscore_support(truth, predicted, labels=present, average="macro", zero_division=0)
    curves = []
    for c in labels:
        positive = truth == c
        if positive.all() or not positive.any():
            curves.append(None)
            continue
        fpr, tpr, _ = metrics.roc_curve(positive, p[:, c])
        curves.append({"auc": metrics.roc_auc_score(positive, p[:, c]), "fpr": fpr.tolist(), "tpr": tpr.tolist()})
    aucs = [c["auc"] for c in curves if c]
    confidence = p.max(axis=1).astype(np.float64)
    correct = (predicted == truth).astype(int)
    share, mean_confidence = calibration_curve(correct, confidence, n_bins=BINS, strategy="uniform")
    borders = np.linspace(0, 1, BINS + 1)
    count = np.bincount(np.searchsorted(borders[1:-1], confidence), minlength=BINS)
    full = count[count > 0]
    return {
        "name": name,
        "classes": classes,
        "truth": truth.tolist(),
        "predicted": predicted.tolist(),
        "p": [float(v) for v in p.ravel()],
        "accuracy": metrics.accuracy_score(truth, predicted),
        "precision": each[0].tolist(),
        "recall": each[1].tolist(),
        "f1": each[2].tolist(),
        "support": each[3].tolist(),
        "macro_precision": mean[0],
        "macro_recall": mean[1],
        "macro_f1": mean[2],
        "confusion": metrics.confusion_matrix(truth, predicted, labels=labels).tolist(),
        "top3": metrics.top_k_accuracy_score(truth, p, k=3, labels=labels),
        "log_loss": metrics.log_loss(truth, p, labels=labels),
        "curves": curves,
        "macro_auc": float(np.mean(aucs)) if aucs else None,
        "micro_auc": metrics.roc_auc_score(np.eye(classes)[truth].ravel(), p.ravel()),
        "bin_count": count.tolist(),
        "bin_accuracy": share.tolist(),
        "bin_confidence": mean_confidence.tolist(),
        "ece": float(np.sum(full * np.abs(share - mean_confidence)) / n),
    }


def main():
    rng = np.random.default_rng(20)
    cases = []
    truth = rng.integers(0, 5, size=80)
    cases.append(case("softmax", truth, softmax_rows(rng, truth, 5, 1.5)))
    truth = rng.integers(0, 4, size=70)
    cases.append(case("ties", truth, eighths(rng, truth, 4)))
    truth = rng.choice([0, 2, 3, 5], size=60)
    cases.append(case("absent classes", truth, eighths(rng, truth, 6)))
    truth = np.full(12, 1)
    cases.append(case("one class", truth, softmax_rows(rng, truth, 4, 1.0)))
    truth = rng.integers(0, 4, size=50)
    p = softmax_rows(rng, truth, 4, 1.0)
    cases.append(case("labels by vote", truth, p, np.where(rng.random(50) < 0.2, truth, p.argmax(axis=1))))
    path = pathlib.Path(__file__).with_name("metrics.json")
    path.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


main()
