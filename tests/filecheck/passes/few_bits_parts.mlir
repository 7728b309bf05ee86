// RUN: kaoken-opt %s -p "choose-schedule{target=x86-64-v4},lower-to-loops" | filecheck %s

// Six bits are four and two: three words hold four times four codes. The integers that are scales
// are worth what their super-block says; the last one has one group.
// CHECK-LABEL: func.func private @linear_48x12_q6
// CHECK-SAME:    %wsupers: memref<1x2x16xf16>
// CHECK:       %[[whole:.*]] = affine.for %s = 0 to 1 iter_args
// CHECK:         memref.load %wsupers
// CHECK-NEXT:    %[[factor:.*]] = kaoken_loop.convert %{{.*}} : f16 to f32
// CHECK:         affine.for %g = 0 to 2 iter_args
// CHECK:           affine.for %k = 0 to 1 iter_args
// CHECK:             memref.load %w[
// CHECK:             memref.load %w[
// CHECK:             memref.load %w[
// CHECK:             %[[mask:.*]] = arith.constant 252645135 : i32
// CHECK-NEXT:        %[[low:.*]] = arith.andi %{{.*}}, %[[mask]]
// CHECK:             %[[moved:.*]] = arith.shli
// CHECK:             arith.constant 808464432 : i32
// CHECK-NEXT:        %[[high:.*]] = arith.andi %[[moved]]
// CHECK-NEXT:        %[[codes:.*]] = arith.ori %[[low]], %[[high]]
// CHECK:             kaoken_loop.dot ui7_i8 %[[codes]]
// CHECK:           kaoken_loop.convert %{{.*}} : i8 to f32
// CHECK-NEXT:      arith.mulf %{{.*}}, %[[factor]]
// CHECK:       affine.for %{{.*}} = 0 to 1 iter_args(%{{.*}} = %[[whole]])
func.func @main(%x: tensor<?x48xf32> {kaoken.shape = #kaoken.shape<[rows, 48]>}) -> tensor<?x12xf32> attributes {kaoken.max = {rows = 64}} {
  %w = kaoken.weight "w" : tensor<1x9x16x4xi8>
  %ws = kaoken.weight "ws" : tensor<1x3x16xi8>
  %t = kaoken.weight "t" : tensor<1x2x16xf16>
  %xq = kaoken.quantize_blocks %x {block = 16} : tensor<?x48xf32> -> tensor<?x3x6xi32>
  %y = kaoken.linear %xq, %w weight_scale %ws : tensor<1x3x16xi8> weight_supers %t : tensor<1x2x16xf16> {out_features = 12, format = #kaoken.format<6 bits, group 16, offset 32, super 2>} : tensor<?x3x6xi32>, tensor<1x9x16x4xi8> -> tensor<?x12xf32>
  return %y : tensor<?x12xf32>
}
