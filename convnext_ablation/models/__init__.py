"""The networks from ResNet-50 to ConvNeXt-T: components, blocks, timm registration, checkpoint conversion."""
