// RUN: kaoken-opt %s -p "choose-schedule{target=x86-64-v4},lower-to-loops" | filecheck %s
// RUN: kaoken-opt %s -p "choose-schedule{target=x86-64-v4}" | filecheck %s --check-prefix=V4
// RUN: kaoken-opt %s -p "choose-schedule{target=x86-64-v3}" | filecheck %s --check-prefix=V3
// RUN: kaoken-opt %s -p "choose-schedule{target=generic}" | filecheck %s --check-prefix=GENERIC

// Panels of one cache line; rows by what registers are left beside a sum for each plane of bits.
// V4:      kaoken.quantize_blocks %x {schedule = #kaoken.schedule<tile(h, 32), vectorize(h_in), parallel(m)>
// V4:      kaoken.linear {{.*}} #kaoken.schedule<panel(16), tile(m, 512), tile(m_in, 8), order(m, n0, m_in, m_in_in, n1), vectorize(m_in_in, n1), prefetch(k, 32), unroll(k, 4), parallel(n0)>
// V3:      kaoken.linear {{.*}} #kaoken.schedule<panel(16), tile(m, 512), tile(m_in, 2),
// GENERIC: kaoken.linear {{.*}} #kaoken.schedule<panel(4), tile(m, 512), tile(m_in, 2),

// Whole groups in a loop, then the 8 of the last one.
// CHECK-LABEL: func.func private @dequantize_40_q4
// CHECK:       affine.for %g = 0 to 1
// CHECK:         kaoken_loop.convert %{{.*}} : f16 to f32
// CHECK:         affine.for %h = 0 to 32
// CHECK:       affine.for %{{.*}} = 0 to 8

// Each block of numbers has a scale, the numbers, their sum; the last block is filled with zeros.
// CHECK-LABEL: func.func private @quantize_40_by_32
// CHECK:       affine.for %g = 0 to 1
// CHECK:         affine.for %h = 0 to 32 iter_args
// CHECK:         arith.mulf
// CHECK:         %[[scale:.*]] = arith.maximumf
// CHECK:         %[[sum:.*]] = affine.for %{{.*}} = 0 to 32 iter_args
// CHECK:           math.roundeven
// CHECK-NEXT:      kaoken_loop.convert %{{.*}} : f32 to i8
// CHECK:         %[[marked:.*]] = math.fma %[[sum]], %{{.*}}, %[[scale]]
// CHECK:         memref.store %[[marked]], %scale[%{{.*}}, %g, %{{.*}}]
// CHECK:         memref.store %{{.*}}, %sum[%{{.*}}, %g, %{{.*}}]
// CHECK:       affine.for %{{.*}} = 0 to 8 iter_args
// CHECK:       affine.for %{{.*}} = 0 to 24
// CHECK:         arith.constant 0 : i8

// A sum for each plane; their total, counted from the offset, is scaled once a group.
// CHECK-LABEL: func.func private @linear_64x50_q4
// CHECK:       affine.for %g = 0 to 2 iter_args(%acc =
// CHECK:         %[[a:.*]], %[[b:.*]] = affine.for %k = 0 to 4 iter_args(%{{.*}} = %{{.*}}, %{{.*}} = %{{.*}}) -> (i32, i32)
// CHECK:           %[[low:.*]] = arith.andi
// CHECK:           kaoken_loop.dot ui7_i8 %[[low]]
// CHECK:           arith.shrui
// CHECK-NEXT:      %[[high:.*]] = arith.andi
// CHECK:           kaoken_loop.dot ui7_i8 %[[high]]
// CHECK:         %[[sum:.*]] = arith.addi %[[a]], %[[b]] : i32
// CHECK:         %[[offset:.*]] = arith.muli
// CHECK-NEXT:    %[[total:.*]] = arith.addi %[[sum]], %[[offset]] : i32
// CHECK:         kaoken_loop.convert %[[total]] : i32 to f32
// CHECK:         arith.mulf
// CHECK:         arith.mulf
// CHECK-NEXT:    arith.addf %acc
func.func @main(%ids: tensor<?xi64> {kaoken.shape = #kaoken.shape<[rows]>}) -> tensor<?x50xf32> attributes {kaoken.max = {rows = 64}} {
  %t = kaoken.weight "t" : tensor<9x40xui8>
  %ts = kaoken.weight "ts" : tensor<9x2xf16>
  %w = kaoken.weight "w" : tensor<4x8x16x4xi8>
  %ws = kaoken.weight "ws" : tensor<4x2x16xf16>
  %codes = kaoken.embedding %t, %ids : tensor<9x40xui8>, tensor<?xi64> -> tensor<?x40xui8>
  %scales = kaoken.embedding %ts, %ids : tensor<9x2xf16>, tensor<?xi64> -> tensor<?x2xf16>
  %x = kaoken.dequantize %codes scale %scales : tensor<?x2xf16> {format = #kaoken.format<4 bits, group 32, offset 8>} : tensor<?x40xui8> -> tensor<?x40xf32>
  %xq = kaoken.quantize_blocks %x {block = 32} : tensor<?x40xf32> -> tensor<?x2x10xi32>
  %y = kaoken.linear %xq, %w weight_scale %ws : tensor<4x2x16xf16> {out_features = 50, format = #kaoken.format<4 bits, group 32, offset 8>} : tensor<?x2x10xi32>, tensor<4x8x16x4xi8> -> tensor<?x50xf32>
  return %y : tensor<?x50xf32>
}
