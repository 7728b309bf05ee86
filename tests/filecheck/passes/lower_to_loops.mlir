// RUN: kaoken-opt %s -p lower-to-loops | filecheck %s
// RUN: kaoken-opt %s -p lower-to-loops,lower-to-loops | filecheck %s

// Two equal layers share one kernel: a plain nest, each loop named and marked.
// CHECK-LABEL: func.func private @linear_16x32_relu
// CHECK-SAME: (%x: memref<?x16xf32>, %w: memref<2x16x16xf32>, %b: memref<2x16xf32>, %y: memref<?x2x16xf32>, %m: index
// CHECK-SAME: kaoken.schedule = #kaoken.schedule<panel(16)>
// CHECK:      affine.for %[[m:.*]] = 0 to %m {
// CHECK-NEXT:   affine.for %[[n0:.*]] = 0 to 2 {
// CHECK-NEXT:     affine.for %[[n1:.*]] = 0 to 16 {
// CHECK-NEXT:       %[[bias:.*]] = memref.load %b[%[[n0]], %[[n1]]]
// CHECK-NEXT:       %[[sum:.*]] = affine.for %[[k:.*]] = 0 to 16 iter_args(%[[acc:.*]] = %[[bias]]) -> (f32) {
// CHECK-NEXT:         %[[wv:.*]] = memref.load %w[%[[n0]], %[[k]], %[[n1]]]
// CHECK-NEXT:         %[[xv:.*]] = memref.load %x[%[[m]], %[[k]]]
// CHECK-NEXT:         %[[next:.*]] = math.fma %[[xv]], %[[wv]], %[[acc]] : f32
// CHECK-NEXT:         affine.yield %[[next]] : f32
// CHECK-NEXT:       } {kaoken_loop.name = "k", kaoken_loop.kind = "reduction"}
// CHECK:            memref.store %{{.*}}, %y[%[[m]], %[[n0]], %[[n1]]]
// CHECK-NOT: func.func private @linear

// CHECK-LABEL: func.func @main
// CHECK-SAME: (%x: memref<?x16xf32> {{.*}}, %z: memref<?x32xf32> {kaoken.result = "z"{{.*}}, %tokens: index {kaoken.name = "tokens"}, %status: memref<2xi64>)
// CHECK:      %y = memref.alloc(%tokens) : memref<?x32xf32>
// CHECK-NEXT: %[[panels:.*]] = kaoken_loop.view %y : memref<?x32xf32> -> memref<?x2x16xf32>
// CHECK-NEXT: func.call @linear_16x32_relu(%x, %w, %[[b:.*]], %[[panels]], %tokens)
// CHECK:      func.call @slice(%y, %{{.*}}, %tokens)
// CHECK:      func.call @linear_16x32_relu(%{{.*}}, %w, %[[b]], %{{.*}}, %tokens)
func.func @main(%x: tensor<?x16xf32> {kaoken.shape = #kaoken.shape<[tokens, 16]>, kaoken.name = "x"}) -> tensor<?x32xf32> attributes {kaoken.max = {tokens = 512}, kaoken.results = ["z"]} {
  %w = kaoken.weight "w" : tensor<2x16x16xf32>
  %b = kaoken.weight "b" : tensor<32xf32>
  %y = kaoken.linear %x, %w bias %b : tensor<32xf32> {activation = #kaoken<activation relu>, schedule = #kaoken.schedule<panel(16)>} : tensor<?x16xf32>, tensor<2x16x16xf32> -> tensor<?x32xf32>
  %h = kaoken.slice %y <[0, 16]> {dim = 1, schedule = #kaoken.schedule<parallel(m)>} : tensor<?x32xf32> -> tensor<?x16xf32>
  %z = kaoken.linear %h, %w bias %b : tensor<32xf32> {activation = #kaoken<activation relu>, schedule = #kaoken.schedule<panel(16)>} : tensor<?x16xf32>, tensor<2x16x16xf32> -> tensor<?x32xf32>
  return %z : tensor<?x32xf32>
}
