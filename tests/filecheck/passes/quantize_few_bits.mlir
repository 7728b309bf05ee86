// RUN: kaoken-opt %s -p 'quantize{dtype=auto},dce' | filecheck %s
// RUN: kaoken-opt %s -p 'quantize{dtype=auto},quantize{dtype=auto},dce' | filecheck %s
// RUN: kaoken-opt %s -p 'quantize{dtype=f32},dce' | filecheck %s --check-prefix=F32

// Codes that are joined stay codes; rows that are looked up become numbers afterwards. A float
// weight stays one.
// CHECK: module attributes {kaoken.notes = ["3 weights stay codes of 4 bits, group 32, offset 8"]}
// CHECK-LABEL: func.func @main
// CHECK:      %[[rows:.*]] = kaoken.embedding %t, %ids : tensor<9x40xui8>, tensor<?xi64> -> tensor<?x40xui8>
// CHECK-NEXT: %[[scales:.*]] = kaoken.embedding %ts, %ids : tensor<9x2xf16>, tensor<?xi64> -> tensor<?x2xf16>
// CHECK-NEXT: %[[x:.*]] = kaoken.dequantize %[[rows]] scale %[[scales]] : tensor<?x2xf16> {format = #kaoken.format<4 bits, group 32, offset 8>} : tensor<?x40xui8> -> tensor<?x40xf32>
// CHECK-NEXT: %[[codes:.*]] = kaoken.concat %q, %k {dim = 0 : i64} : tensor<16x40xui8>, tensor<8x40xui8> -> tensor<24x40xui8>
// CHECK-NEXT: %[[scale:.*]] = kaoken.concat %qs, %ks {dim = 0 : i64} : tensor<16x2xf16>, tensor<8x2xf16> -> tensor<24x2xf16>
// CHECK-NEXT: %[[xq:.*]] = kaoken.quantize_blocks %[[x]] {block = 32 : i64} : tensor<?x40xf32> -> tensor<?x2x10xi32>
// CHECK-NEXT: kaoken.linear %[[xq]], %[[codes]] weight_scale %[[scale]] : tensor<24x2xf16> {format = #kaoken.format<4 bits, group 32, offset 8>} : tensor<?x2x10xi32>, tensor<24x40xui8> -> tensor<?x24xf32>
// CHECK-NEXT: kaoken.linear %[[x]], %u : tensor<?x40xf32>, tensor<8x40xf32> -> tensor<?x8xf32>

// F32: 3 weights of few bits become f32: t, q, k
// F32-NOT: quantize_blocks
func.func @main(%ids: tensor<?xi64> {kaoken.shape = #kaoken.shape<[rows]>}) -> (tensor<?x24xf32>, tensor<?x8xf32>) attributes {kaoken.max = {rows = 64}} {
  %t = kaoken.weight "t" : tensor<9x40xui8>
  %ts = kaoken.weight "ts" : tensor<9x2xf16>
  %q = kaoken.weight "q" : tensor<16x40xui8>
  %qs = kaoken.weight "qs" : tensor<16x2xf16>
  %k = kaoken.weight "k" : tensor<8x40xui8>
  %ks = kaoken.weight "ks" : tensor<8x2xf16>
  %u = kaoken.weight "u" : tensor<8x40xf32>
  %0 = kaoken.dequantize %t scale %ts : tensor<9x2xf16> {format = #kaoken.format<4 bits, group 32, offset 8>} : tensor<9x40xui8> -> tensor<9x40xf32>
  %x = kaoken.embedding %0, %ids : tensor<9x40xf32>, tensor<?xi64> -> tensor<?x40xf32>
  %1 = kaoken.dequantize %q scale %qs : tensor<16x2xf16> {format = #kaoken.format<4 bits, group 32, offset 8>} : tensor<16x40xui8> -> tensor<16x40xf32>
  %2 = kaoken.dequantize %k scale %ks : tensor<8x2xf16> {format = #kaoken.format<4 bits, group 32, offset 8>} : tensor<8x40xui8> -> tensor<8x40xf32>
  %w = kaoken.concat %1, %2 {dim = 0 : i64} : tensor<16x40xf32>, tensor<8x40xf32> -> tensor<24x40xf32>
  %3 = kaoken.linear %x, %w : tensor<?x40xf32>, tensor<24x40xf32> -> tensor<?x24xf32>
  %4 = kaoken.linear %x, %u : tensor<?x40xf32>, tensor<8x40xf32> -> tensor<?x8xf32>
  return %3, %4 : tensor<?x24xf32>, tensor<?x8xf32>
}
