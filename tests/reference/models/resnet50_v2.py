"""ResNet50 v2 (pre-activation) in PyTorch, with the tensor names that the project documents."""

from torch import nn


class Block(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        outputs = 4 * width
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        changes = inputs != outputs or stride != 1
        self.downsample = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, x):
        activated = self.bn1(x).relu()
        shortcut = x if self.downsample is None else self.downsample(activated)
        y = self.conv1(activated)
        y = self.conv2(self.bn2(y).relu())
        return self.conv3(self.bn3(y).relu()) + shortcut


class ResNet50V2(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.bn0 = nn.BatchNorm2d(3)
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for stage, (width, blocks, stride) in enumerate([(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)], 1):
            layers = []
            for block in range(blocks):
                layers.append(Block(inputs, width, stride if block == 0 else 1))
                inputs = 4 * width
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.norm = nn.BatchNorm2d(2048)
        self.fc = nn.Linear(2048, num_classes)

    def features(self, x):
        x = self.maxpool(self.bn1(self.conv1(self.bn0(x))).relu())
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.norm(x).relu().mean((2, 3))

    def forward(self, x):
        return self.fc(self.features(x))
