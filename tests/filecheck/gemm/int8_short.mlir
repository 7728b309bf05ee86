// Without an instruction for products of ui8 and i8: weights of seven bits, of which two products with
// ui8 add up in 16 bits.
// RUN: kaoken-opt %s --print-between-passes -p 'quantize{dtype=int8 target=x86-64-v3},choose-schedule{target=x86-64-v3},bake,lower-to-loops,tile,reorder,vectorize,unroll' | filecheck %s
// RUN: kaoken-opt %s -p 'quantize{dtype=int8 target=x86-64-v3},choose-schedule{target=x86-64-v3},vectorize' -t 'c{lower=false target=x86-64-v3}' | filecheck %s --check-prefix=C
// RUN: kaoken-opt %s -p 'quantize{dtype=int8 target=x86-64-v3},choose-schedule{target=x86-64-v3},vectorize' -t 'c{lower=false target=generic}' | filecheck %s --check-prefix=GENERIC

// CHECK-LABEL: IR after bake:
// CHECK: kaoken.weight "w.quantize.panels24" : tensor<4x17x24x4xi8>
// CHECK: kaoken.linear {{.*}}weight_bits = 7

// CHECK-LABEL: IR after lower-to-loops:
// CHECK:      func.func private @linear_64x96_int8(
// CHECK:        kaoken_loop.dot ui8_i7 %{{.*}} : i32, i32, i32 -> i32

// Four rows of three registers.
// CHECK-LABEL: IR after vectorize:
// CHECK:      func.func private @linear_64x96_int8(
// CHECK:        kaoken_loop.dot ui8_i7 %{{.*}} : vector<4x24xi32>, vector<4x24xi32>, vector<4x24xi32>

// C:      static inline kk_i32x8 kk_dot_pairs_x8(
// C:        _mm256_maddubs_epi16((__m256i)a, (__m256i)b)
// C-LABEL: static void linear_64x96_int8(
// C:        kk_dot_pairs_x8(
// GENERIC-LABEL: static void linear_64x96_int8(
// GENERIC:       kk_dot_ui8_i7(

func.func @main(%x: tensor<16x64xf32>) -> tensor<16x96xf32> {
  %w = arith.constant dense<0.5> : tensor<96x64xf32>
  %y = kaoken.linear %x, %w : tensor<16x64xf32>, tensor<96x64xf32> -> tensor<16x96xf32>
  return %y : tensor<16x96xf32>
}
