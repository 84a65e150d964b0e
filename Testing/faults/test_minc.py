"""MINC, in which positions run from left to right and from back to front, whatever ITK takes them for."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from SESegmentationLib.io.reading import read_volume
from SESegmentationLib.io.volume_image import RAS_TO_LPS, affine_of

#: a file of 2 x 3 x 4 voxels, counted from 0, compressed; written once: ITK before version 6 writes other positions
FILE = (
    r"c-rk+eQXnD7=N$Vb#3WJ_W?t6(t#t(U|m=1CJSK|Mk#DVzML>L<7jW)X?s`hI@}f=!VF3R!LJYrN-%*0F-Ayq_?Iq<7$hNnMez?KqQPY(0uq"
    r"7}72mJxy4sFybl5HTB+K=F@AJOT)8~DEzkBcPc6e(&S?1|xozVzXyGgCvN$wpK|MA^djz8?JU8S?VH9z~w*uQpNZfr-@%sRjTV8{dTVhjnQu"
    r"gqz8e4>VV2;9Df3r;?UQ*y+ogj$DAYYIxs>=#13s0fm%G%;jM!(`N;7sM9niV9f~lp%z;0RMuHU{i8|9)KQ}+<EmhBiy>@wA4M?v~o}=L#Gn"
    r"ve0;Bg#wTD02G33!1h!-FvX#caYlvzs@vK)ynHE?J#>`%=Zmb(^wJfLxjAI6!2H;I$T3=tEH`=sf){Ai}ovwU@nJ`uc$q+6`gmdjXr_uQNiP"
    r"O5$_En>2m3IX&;?-sa|KaThS`1NLlkrz->@W+VkLgJWQ39{sb`|S>PMp4QjkgwN1Xn*?mB3%pt5;*FQFMz>pYyDSUO>%{0fVmt@m7F#7(;C-"
    r"m`U)v!QktIP1jypxTf9%<Kh~-Q3(KO`t_0JpbG&r31EHsW+!MQd1Iir?%?}ZPwu=3G#l@R30f3S(BBzGPo$X52TYEw29T$l8@MI`*G;(oG9X"
    r"V`vk`KbWmMj%Pe7vVXXxz)6NO)Av~s7hJ^$C$zM*w-3!T92rlEB)>-Kc9RK-4@Rr`3nE}k{1G1Mr3pWoC$bWzQ3xVq>}qKi#)_B2sl+(h?pN"
    r"cA2y6<R?iB1Jis!THB?z!Kz9N`UWK-CVGT8St3(+Z-2o6M4)gz@@^I4}njSM==4)=A7aI7Si<uc&&9?EATLJ>RXAz))An8_le!0A9)lK00{e"
    r"!5e2Uxz}BJ_Ux3dLa32AV6hHF=XhmJ@1mM~WZ_K#&{L|X9zvH@ifiB$kY)u!(gDD61@k8rk7oEWU*<-4UvsG;QQO+H&i<h(Gb#Vr>t(WLx*9"
    r"dj7A&D;Tc%yh<I_hG5YIX6*vR!6v+23(p{3n;(y_l!z;&`x<Lko5et&7{~1oq^OsV>e`F?-#2fp}ds=Ev*eu|-e(M09cc2z9YFi7p-zzA>kx"
    r"F4m@27sVw-thVe&q>J?o<AUU18Aca(W;E!yGXc(80Ar1=JR``+g!);E@2n6%TtwWYK@u8&m}aR!0~=s>*tnUK1wTMkoJ!+1EM30HrbIZ=&&h"
    r"rpYUefvc}pqkWQ=x-bcA`_EsJ&w$WmLlnVQ8B>&?sPBp7?=#Rh344K`>_yTjr{eN3c}UkFLEpO<lmeA<be-p(cGwR6b{Edba4e6Kulox!c2K"
    r"iQ~$#+Vr+&!VIByw^A$3kfo#-$rh`ejrt~xm-hPb9jQ(hB>usCHYk49sqT$KEse{G?^z^va%;zb8_?Yr%Wx-luR?tG}BBo%_h+Pe37?~>}o!"
    r"syBhUpVoL+sTv*`VGaqe5f`Y$U=EMLG5^a@q%)nM&moQM3yYiQ1{hrmU7e{|TW;U?k0RD98>be@-r2d4$Y+=AwJWzS)hJu^aQ$(hV0o!oX$9"
    r"*T>!A<ImGy~sUJ8_eBTJcJcw{~Il^aR^^<=c`GZ^?$g9UJLZEb5Q;@q!q@z9#A~^MSS?C!<j_;VeL}ATI_Yt-xwj--c}1QIFq}a>+dT1)29n"
    r"V2Ea)qzEFfB%Lib?gi`Z`n7$XJr`@p-MJbNZKw6}1vy2*DQ40XVcHRa3$h>shDKi_!iN*bi`hb>@u)YfXHxeA&w4iRm99Z|GYJnDU_cD<Vg#"
    r"pPpegtuAoI~2+e9IvL`#nTLZN8DrvyJN->vhbFJL|?gu;>GX4B!;+62)j^PIvfwia0m*-#0fmo3P*L~IesCJTYqh$buPV3_|GVh_>!`aUe2a"
    r"QtUe!+*;Aj|S^Ns`>xNaQWX~UiGDARi!&k_;07ftxLxLumr!oEJ!jE0Zt^JH4gso{67<WwAJvlbkBt2zb=*hk2mtXP96V&dzkzuwxBmn_+Lh"
    r"cYf8p{L2QZAUug?#^iLE1_r$L6y-RynM%RkqR~J(;om^4cDET|8H;1a74risk0#dZX?zrDxG0*OJpxWtlxvHuwSjc_cAN}8Xb1c)<HR-gw?2"
    r"gJIcmvl@5Xyx%Lz-zecJ?n5-DJi"
)
#: from (i, j, k) to RAS, as nibabel reads it; it is turned by 30 degrees
AFFINE = [[0.8660254, -0.75, 0, -10], [0.5, 1.2990381, 0, 20], [0, 0, 2, -30], [0, 0, 0, 1]]


def test_left_is_left(tmp_path):
    path = tmp_path / "scan.mnc"
    path.write_bytes(zlib.decompress(base64.b85decode(FILE)))
    image = read_volume(path)
    assert affine_of(image) == pytest.approx(RAS_TO_LPS @ np.array(AFFINE), abs=1e-6)
    assert sitk.GetArrayFromImage(image).ravel().tolist() == list(range(24))
