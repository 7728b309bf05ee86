// RUN: kaoken-opt %s -t 'c{target=x86-64-v4 lower=false}' | filecheck %s

// A short epilogue is unrolled and works on the accumulator's registers; a bias that varies by
// column only is read once. The last register of a row of 24 is half full.

#column = affine_map<(d0) -> (0, d0)>
#both = affine_map<(d0, d1) -> (d0, d1)>

func.func private @bias(%x: memref<2x24xf32>, %b: memref<24xf32>, %y: memref<2x24xf32>) {
  %c0 = arith.constant 0 : index
  %pad = arith.constant 0.0 : f32
  %v = vector.transfer_read %x[%c0, %c0], %pad {permutation_map = #both, in_bounds = [true, true]} : memref<2x24xf32>, vector<2x24xf32>
  %bias = vector.transfer_read %b[%c0], %pad {permutation_map = #column, in_bounds = [true, true]} : memref<24xf32>, vector<2x24xf32>
  %s = arith.addf %v, %bias : vector<2x24xf32>
  vector.transfer_write %s, %y[%c0, %c0] {permutation_map = #both, in_bounds = [true, true]} : vector<2x24xf32>, memref<2x24xf32>
  func.return
}

// CHECK:      static void bias(const float *x, const float *b, float *y)
// CHECK-NEXT: {
// CHECK-NEXT:     kk_f32x16 bias_2[2];
// CHECK-NEXT:     bias_2[0] = _mm512_loadu_ps(&b[0]);
// CHECK-NEXT:     bias_2[1] = _mm512_maskz_loadu_ps(0xff, &b[16]);
// CHECK-NEXT: #pragma GCC unroll 2
// CHECK-NEXT:     for (int i = 0; i < 2; i++) {
// CHECK-NEXT:         _mm512_storeu_ps(&y[i * 24], _mm512_loadu_ps(&x[i * 24]) + bias_2[0]);
// CHECK-NEXT:         _mm512_mask_storeu_ps(&y[i * 24 + 16], 0xff,
// CHECK-NEXT:             _mm512_maskz_loadu_ps(0xff, &x[i * 24 + 16]) + bias_2[1]);
// CHECK-NEXT:     }
// CHECK-NEXT: }
