// Package resnet builds the networks of "Deep Residual Learning for Image Recognition" (He, Zhang, Ren, Sun,
// 2015) from one table: Table 1's ResNet-18 to -152, the plain 18- and 34-layer networks, and section 4.2's CIFAR
// networks of 6n+2 layers, residual and plain.
//
//	net, err := resnet.Build("resnet50-v1.5", 0) // 0: the number of classes the name implies
package resnet
