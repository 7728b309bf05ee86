// RUN: kaoken-opt %s -p migrate-scales | filecheck %s
// RUN: kaoken-opt %s -p migrate-scales,migrate-scales | filecheck %s

// Only the layer reads the first norm: its weight and bias take 1/s, the layer's weight takes s.
// The second one is a result as well: a product of its own, which quantize takes over.
// CHECK-LABEL: func.func @main
// CHECK-DAG:  %[[s:.*]] = kaoken.weight "w.migrated" : tensor<4xf32>
// CHECK-DAG:  %[[f:.*]] = kaoken.weight "w.migrated_inverse" : tensor<4xf32>
// CHECK:      %[[g:.*]] = kaoken.elementwise mul %g, %[[f]]
// CHECK-NEXT: %[[b:.*]] = kaoken.elementwise mul %b, %[[f]]
// CHECK-NEXT: %[[q:.*]] = kaoken.elementwise mul %r, %[[f]]
// CHECK-NEXT: %[[w:.*]] = kaoken.elementwise mul %w, %[[s]]
// CHECK:      %n = kaoken.layer_norm %x, %[[g]] bias %[[b]]
// CHECK-NEXT: %[[o:.*]] = kaoken.observe %n, %[[q]]
// CHECK-NEXT: kaoken.linear %[[o]], %[[w]]
// CHECK:      %n2 = kaoken.rms_norm %x, %g
// CHECK:      %[[m:.*]] = kaoken.elementwise mul %n2, %
// CHECK:      kaoken.observe %[[m]],
// CHECK-NOT:  migrated_2
func.func @main(%x: tensor<?x4xf32> {kaoken.shape = #kaoken.shape<[rows, 4]>}) -> (tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>) attributes {kaoken.max = {rows = 16}} {
  %g = arith.constant dense<[1.0, 2.0, 3.0, 4.0]> : tensor<4xf32>
  %b = arith.constant dense<[1.0, -2.0, 0.0, 0.5]> : tensor<4xf32>
  %w = arith.constant dense<[[1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 1.0, 0.0], [2.0, 2.0, 2.0, 2.0], [0.1, 0.2, 0.3, 0.4]]> : tensor<4x4xf32>
  %v = arith.constant dense<[[1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 1.0, 0.0], [2.0, 2.0, 2.0, 2.0], [0.1, 0.2, 0.3, 0.5]]> : tensor<4x4xf32>
  %r = arith.constant dense<[[-1.0, -2.0, -3.0, -4.0], [1.0, 2.0, 30.0, 4.0]]> : tensor<2x4xf32>
  %n = kaoken.layer_norm %x, %g bias %b : tensor<4xf32> {eps = 1.0e-12 : f64} : tensor<?x4xf32>, tensor<4xf32> -> tensor<?x4xf32>
  %o = kaoken.observe %n, %r : tensor<?x4xf32>, tensor<2x4xf32> -> tensor<?x4xf32>
  %y = kaoken.linear %o, %w : tensor<?x4xf32>, tensor<4x4xf32> -> tensor<?x4xf32>
  %n2 = kaoken.rms_norm %x, %g {eps = 1.0e-12 : f64} : tensor<?x4xf32>, tensor<4xf32> -> tensor<?x4xf32>
  %o2 = kaoken.observe %n2, %r : tensor<?x4xf32>, tensor<2x4xf32> -> tensor<?x4xf32>
  %z = kaoken.linear %o2, %v : tensor<?x4xf32>, tensor<4x4xf32> -> tensor<?x4xf32>
  return %y, %n2, %z : tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>
}
