// RUN: kaoken-opt %s -t 'c{target=x86-64-v4 lower=false}' | filecheck %s --check-prefix=V4
// RUN: kaoken-opt %s -t 'c{target=x86-64-v3 lower=false}' | filecheck %s --check-prefix=V3
// RUN: kaoken-opt %s -t 'c{target=generic lower=false}' | filecheck %s --check-prefix=GENERIC

// One register tile of a matrix product: the broadcast of x costs one splat a row, w is read once
// for all rows, and the accumulator is updated in place.

#row = affine_map<(d0, d1) -> (d0, 0)>
#column = affine_map<(d0, d1) -> (0, d1)>
#both = affine_map<(d0, d1) -> (d0, d1)>

func.func private @tile(%x: memref<?x768xf32>, %w: memref<768x32xf32>, %y: memref<?x32xf32>, %m: index) {
  %c0 = arith.constant 0 : index
  %pad = arith.constant 0.0 : f32
  %zero = arith.constant dense<0.0> : vector<4x32xf32>
  %acc = affine.for %k = 0 to 768 iter_args(%a = %zero) -> (vector<4x32xf32>) {
    %xv = vector.transfer_read %x[%m, %k], %pad {permutation_map = #row, in_bounds = [true, true]} : memref<?x768xf32>, vector<4x32xf32>
    %wv = vector.transfer_read %w[%k, %c0], %pad {permutation_map = #column, in_bounds = [true, true]} : memref<768x32xf32>, vector<4x32xf32>
    %f = vector.fma %xv, %wv, %a : vector<4x32xf32>
    affine.yield %f : vector<4x32xf32>
  }
  vector.transfer_write %acc, %y[%m, %c0] {permutation_map = #both, in_bounds = [true, true]} : vector<4x32xf32>, memref<?x32xf32>
  func.return
}

// V4:      #include <immintrin.h>
// V4:      typedef float kk_f32x16 __attribute__((vector_size(16 * sizeof(float))));
// V4:      static void tile(const float *x, const float *w, float *y, int64_t m)
// V4:          kk_f32x16 acc[4][2];
// V4:              for (int j = 0; j < 2; j++) {
// V4-NEXT:             acc[i][j] = _mm512_set1_ps(0.0f);
// V4:          for (int64_t k = 0; k < 768; k++) {
// V4-NEXT:         kk_f32x16 wv[2];
// V4-NEXT: #pragma GCC unroll 2
// V4-NEXT:         for (int j = 0; j < 2; j++) {
// V4-NEXT:             wv[j] = _mm512_loadu_ps(&w[k * 32 + j * 16]);
// V4-NEXT:         }
// V4-NEXT: #pragma GCC unroll 4
// V4-NEXT:         for (int i = 0; i < 4; i++) {
// V4-NEXT:             const kk_f32x16 xv = _mm512_set1_ps(x[(m + i) * 768 + k]);
// V4-NEXT: #pragma GCC unroll 2
// V4-NEXT:             for (int j = 0; j < 2; j++) {
// V4-NEXT:                 acc[i][j] = _mm512_fmadd_ps(xv, wv[j], acc[i][j]);
// V4-NEXT:             }
// V4-NEXT:         }
// V4-NEXT:     }
// V4:                  _mm512_storeu_ps(&y[(m + i) * 32 + j * 16], acc[i][j]);

// V3:          kk_f32x8 acc[4][4];
// V3:                      acc[i][j] = _mm256_fmadd_ps(xv, wv[j], acc[i][j]);

// GENERIC-NOT: immintrin
// GENERIC:     float acc[4][32];
// GENERIC:                 acc[i][j] = kk_fma_f32(xv, wv[j], acc[i][j]);
